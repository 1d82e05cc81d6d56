"""Settings and result of the main job."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from artimuse_actor.checkpoint.network_config import known_precision, precision_name
from artimuse_actor.errors import UsageError
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.images.options import DecodeOptions
from artimuse_actor.protocol.protocols import Protocol
from jobs.manifest.manifest import ManifestOptions
from jobs.plan.plan import MAX_UNIT_ROWS, SHARD_ROWS
from jobs.plan.stored_rows import RetryErrors
from jobs.score.actor_pool import ActorPool
from jobs.score.breaker import FETCH_ERRORS
from jobs.score.events import check_log_format
from jobs.store.counts import Counts
from jobs.store.pruning import PruneCounts
from jobs.store.run_record import RunRecord
from jobs.store.text_request import WantedTexts
from schemas.fingerprint import Fingerprint
from schemas.text_settings import TextSettings

if TYPE_CHECKING:
    from artimuse_actor.loaded_model import BatchSize


@dataclass(frozen=True)
class ScoreSettings:
    """Settings of a run of the `score` command.

    Attributes:
        source: what to score, see `jobs.manifest.source`.
        checkpoint: folder, folder in a bucket, or name.
        out: folder or prefix of the store.
        manifest: how the source is read.
        decode: how images are decoded.
        fetch: how image files are fetched.
        protocol: itself, its name or TOML file, or None to guess it from the checkpoint's name.
        published_arithmetic: whether scores are rounded as in the published code, see `AsPublished`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        batch_size: images of a forward pass, or `auto`.
        shard_rows: rows of a shard, which is one file of each table.
        unit_size: rows of a unit, or None for a size that fits the job.
        actors: number of models that work at the same time; None for as many as fit the GPUs, and one on the CPU.
        actors_per_gpu: number of models that share a GPU.
        quantize: `int8`, `fp8`, `fp8-products`, `nf4`, or None for weights of all bits.
        allow_mixed: whether rows may be added in another precision than those of the store.
        keep_distribution: whether the probabilities of the levels are stored.
        texts: which texts to generate, or None for those of the store, if it has any.
        sequences: texts that a model generates at the same time, or `auto`.
        retry: which failed rows are retried; by default those that are marked as retryable.
        prune: whether rows whose images the source no longer has are dropped.
        prune_max: the most rows that are dropped, as a share of the table's rows.
        moved: whether rows of the same ids are those of the source's images, wherever they were before.
        dry_run: whether nothing is done but to count what would be dropped.
        max_failed: the largest share of the run's images that may fail to be read without an exit code that says so.
        address: address of a Ray cluster, or None to start Ray here if the run needs it.
        local: whether the run does without Ray; None to decide by its size.
        log_format: `text` for a line of progress, `json` for events.
        quiet: whether nothing is printed while the run works, but for what is news.
        ends_at: when the run ends even if images are left, in seconds since the epoch; None for no such time.
    """

    source: str
    checkpoint: str
    out: str
    manifest: ManifestOptions = field(default_factory=ManifestOptions)
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    fetch: FetchOptions = field(default_factory=FetchOptions)
    protocol: str | Protocol | None = None
    published_arithmetic: bool = False
    device: str = "auto"
    dtype: str = "auto"
    batch_size: BatchSize = "auto"
    unit_size: int | None = None
    shard_rows: int = SHARD_ROWS
    actors: ActorPool | None = None
    actors_per_gpu: int = 1
    quantize: str | None = None
    allow_mixed: bool = False
    keep_distribution: bool = False
    texts: WantedTexts | None = None
    sequences: BatchSize = "auto"
    retry: RetryErrors = field(default_factory=RetryErrors)
    prune: bool = False
    prune_max: float = 0.1
    moved: bool = False
    dry_run: bool = False
    max_failed: float | None = None
    address: str | None = None
    local: bool | None = None
    log_format: str = "text"
    quiet: bool = False
    ends_at: float | None = None

    def __post_init__(self) -> None:
        check_log_format(self.log_format)
        if self.dry_run and not self.prune:
            raise UsageError("--dry-run is about what --prune would drop. Add --prune.")
        if self.local and (self.address is not None or self.actors is not None):
            raise UsageError("--local is one model in this process, so it goes with neither --address nor --actors.")
        self.precision("float32" if self.dtype == "auto" else self.dtype)  # refuses other words
        if self.sequences != "auto" and self.sequences < 1:
            raise UsageError(f"--sequences takes a whole number from 1 or auto, not {self.sequences}.")
        for option, value, most in (
            ("--unit-size", self.unit_size, MAX_UNIT_ROWS),
            ("--actors-per-gpu", self.actors_per_gpu, 100),
        ):
            if value is not None and not 1 <= value <= most:
                raise UsageError(f"{option} takes a whole number from 1 to {most}, not {value}.")

    def precision(self, dtype: str) -> str:
        """The precision of the run's rows with this dtype, as fingerprints have it."""
        return precision_name(dtype, self.quantize)

    @property
    def known_precision(self) -> str | None:
        """The precision, if it can be known without looking at a GPU."""
        return known_precision(self.dtype, self.device, self.quantize)


@dataclass(frozen=True)
class ScoreResult:
    """The result of a run.

    Attributes:
        record: content of its `run.json`.
        fingerprint: of the whole store.
        counts: rows of the whole store.
        new_errors: error type → rows that this run made.
        notes: sentences about files and rows of the source that were left out.
        protocol: the protocol of the scores.
        texts: which texts the store has, if any.
        was_finished: whether the store had every row before the run.
        prunable: what a prune would drop, if that was all that was asked.
    """

    record: RunRecord
    fingerprint: Fingerprint
    counts: Counts
    new_errors: Counter[str]
    notes: list[str]
    protocol: Protocol
    texts: TextSettings | None
    was_finished: bool
    prunable: PruneCounts | None = None

    def failed_too_many(self, most: float | None) -> bool:
        """Whether more of this run's images could not be read than this share; without one, whether none could."""
        tried = max(self.record.scored_rows, self.record.described_rows, self.new_errors.total())
        unread = sum(count for kind, count in self.new_errors.items() if kind in FETCH_ERRORS)
        return unread > 0 and (unread >= tried if most is None else unread > most * tried)
