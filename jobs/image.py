"""One image or a few, without Ray."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from artimuse_actor.artimuse import ArtiMuse, BatchSize
from artimuse_actor.errors import ImageError
from artimuse_actor.fetch import fetch_many
from artimuse_actor.images import DecodeOptions, decode_image
from artimuse_actor.scoring import ImageScore


@dataclass(frozen=True)
class FileResult:
    """One file's scores, or why there are none.

    Attributes:
        file: as it was named.
        score: what the model says.
        error: why it says nothing.
    """

    file: str
    score: ImageScore | None
    error: ImageError | None

    def to_json(self) -> dict[str, Any]:
        """The names of the scores table."""
        if self.score is None:
            assert self.error is not None
            about = {"error_type": self.error.error_type, "error_message": self.error.message}
            return {"image": self.file, "status": "error", **about}
        scores: dict[str, Any] = {"image": self.file, "status": "ok"}
        for question, points in self.score.scores.items():
            scores |= {question: points, f"{question}_std": self.score.stds[question]}
        return scores


def score_files(
    files: Sequence[str],
    *,
    checkpoint: str,
    protocol: str | None,
    device: str,
    dtype: str,
    batch_size: BatchSize,
    options: DecodeOptions,
) -> list[FileResult]:
    """Score files in order; one that cannot be read does not keep the others from it."""
    model = ArtiMuse.load(checkpoint, protocol=protocol, device=device, dtype=dtype, batch_size=batch_size)
    if protocol is None:
        print(f"Protocol {model.protocol.name}, guessed from the checkpoint's name.", file=sys.stderr)
    results: list[FileResult] = []
    batch: list[tuple[str, Any]] = []
    for file, data in zip(files, fetch_many(files, options.max_bytes), strict=True):
        try:
            if isinstance(data, ImageError):
                raise data
            batch.append((file, decode_image(data, options).pixels))
        except ImageError as error:
            batch.append((file, error))
        if len(batch) == model.batch_size:
            results += _score_batch(model, batch)
            batch = []
    return results + _score_batch(model, batch)


def _score_batch(model: ArtiMuse, batch: list[tuple[str, Any]]) -> list[FileResult]:
    scores = iter(model.score([pixels for _, pixels in batch if not isinstance(pixels, ImageError)]))
    return [
        FileResult(file, None, found) if isinstance(found, ImageError) else FileResult(file, next(scores), None)
        for file, found in batch
    ]
