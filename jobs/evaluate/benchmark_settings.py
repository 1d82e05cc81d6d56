"""Arguments of the `benchmark` command, and the runs that they ask for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from artimuse_actor.checkpoint.checkpoint import CheckpointIdentity
from artimuse_actor.checkpoint.names import identify_checkpoint
from artimuse_actor.errors import ArtiMuseError
from artimuse_actor.images.options import DecodeOptions
from jobs.evaluate.options import EvaluateOptions
from jobs.manifest.manifest import ManifestOptions
from jobs.score.actor_pool import ActorPool

if TYPE_CHECKING:
    from artimuse_actor.loaded_model import BatchSize
    from jobs.score.settings import ScoreSettings


@dataclass(frozen=True)
class BenchmarkSettings:
    """Arguments of the `benchmark` command.

    Attributes:
        names: of benchmarks, or `all` that are there.
        root: where the data sets lie.
        out: where the stores go: one for each checkpoint and data set.
        checkpoints: folders or names.
        protocol: of all of them, or None to guess it from each one's name.
        device: as of `score`.
        dtype: as of `score`.
        quantize: as of `score`.
        actors: as of `score`.
        actors_per_gpu: as of `score`.
        batch_size: as of `score`.
        published_arithmetic: as of `score`.
        allow_truncated: score truncated files, as the published evaluation of data sets does.
        address: of a Ray cluster, or None to work on this machine alone.
        limit: only so many rows of each data set, or None for all.
        images: folder that the names of images in lists of questions start from, or None to look for it.
        against: the checkpoint that the others are compared with, one of `checkpoints`; None for none.
        results: folder of result files as the published scripts write them, or None.
        evaluate: how scores are compared with ground truth.
    """

    names: tuple[str, ...]
    root: str
    out: str
    checkpoints: tuple[str, ...]
    protocol: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    quantize: str | None = None
    actors: ActorPool | None = None
    actors_per_gpu: int = 1
    batch_size: BatchSize = "auto"
    published_arithmetic: bool = False
    allow_truncated: bool = False
    address: str | None = None
    limit: int | None = None
    images: str | None = None
    against: str | None = None
    results: str | None = None
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)

    def identify(self, problems: list[str]) -> dict[str, CheckpointIdentity]:
        """Identify all checkpoints; sentences about what is wrong with them, or with numbers, join the problems."""
        identities: dict[str, CheckpointIdentity] = {}
        for checkpoint in self.checkpoints:
            try:
                identities[checkpoint] = identify_checkpoint(checkpoint, fetch=self.address is None)
            except ArtiMuseError as error:
                problems.append(str(error))
        if self.against is not None and self.against not in self.checkpoints:
            problems.append(
                f"--against takes one of the checkpoints ({', '.join(self.checkpoints)}), not {self.against!r}."
            )
        if self.limit is not None and self.limit < 1:
            problems.append(f"--limit takes a whole number from 1, not {self.limit}.")
        return identities

    def scoring(self, source: str, images: str, checkpoint: str, out: str) -> ScoreSettings:
        """Settings of the run of one checkpoint on one data set."""
        from jobs.score.settings import ScoreSettings

        return ScoreSettings(
            source=source,
            checkpoint=checkpoint,
            out=out,
            manifest=ManifestOptions(images=images, limit=self.limit),
            decode=DecodeOptions(allow_truncated=self.allow_truncated),
            protocol=self.protocol,
            published_arithmetic=self.published_arithmetic,
            device=self.device,
            dtype=self.dtype,
            quantize=self.quantize,
            batch_size=self.batch_size,
            actors=self.actors,
            actors_per_gpu=self.actors_per_gpu,
            address=self.address,
        )

    def arguments(self, scoring: ScoreSettings) -> dict[str, Any]:
        """What `run.json` says of such a run."""
        return {
            "command": "benchmark",
            "source": scoring.source,
            "images": scoring.manifest.images,
            "limit": self.limit,
            "as_questions": scoring.manifest.as_questions,
            "out": scoring.out,
            "checkpoint": scoring.checkpoint,
            "protocol": self.protocol,
            "device": self.device,
            "dtype": self.dtype,
            "quantize": self.quantize,
            "published_arithmetic": self.published_arithmetic,
            "allow_truncated": self.allow_truncated,
        }
