"""One image or a few, without Ray."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from artimuse_actor.artimuse import ArtiMuse
from artimuse_actor.engine.describe import ImageDescription
from artimuse_actor.engine.scoring import ImageScore
from artimuse_actor.errors import ImageError
from artimuse_actor.fetch.fetch import fetch_many
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.images.decode import DecodedImage, decode_image
from artimuse_actor.images.options import DecodeOptions, Pixels
from artimuse_actor.loaded_model import BatchSize
from jobs.store.text_request import WantedTexts
from jobs.words import show


@dataclass(frozen=True)
class ImageSettings:
    """Settings of one model in this process; see the options of `artimuse image`."""

    checkpoint: str
    protocol: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    quantize: str | None = None
    batch_size: BatchSize = "auto"
    texts: WantedTexts | None = None
    sequences: BatchSize = "auto"
    published_arithmetic: bool = False
    options: DecodeOptions = field(default_factory=DecodeOptions)
    fetch: FetchOptions = field(default_factory=FetchOptions)

    def load_model(self) -> ArtiMuse:
        """Load the checkpoint, and say on standard error which protocol was guessed.

        Raises:
            CheckpointError: it cannot be fetched, read or verified.
            UsageError: a setting is not valid here.
        """
        model = ArtiMuse.load(
            self.checkpoint,
            protocol=self.protocol,
            device=self.device,
            dtype=self.dtype,
            quantize=self.quantize,
            batch_size=self.batch_size,
            published_arithmetic=self.published_arithmetic,
        )
        if self.protocol is None:
            show(f"Protocol {model.protocol.name}, guessed from the checkpoint's name.", file=sys.stderr)
        return model


@dataclass(frozen=True)
class FileResult:
    """One file's scores, or why there are none.

    Attributes:
        file: the file as the user named it.
        score: its scores; with texts, an `ImageDescription`.
        error: the error, if it has no scores.
        warning: what a person would see otherwise, as in the scores table.
    """

    file: str
    score: ImageScore | None
    error: ImageError | None
    warning: str | None = None

    @property
    def texts(self) -> dict[str, str]:
        """Title of the question → answer; empty if none was asked."""
        return dict(self.score.texts) if isinstance(self.score, ImageDescription) else {}


def score_files(files: Sequence[str], settings: ImageSettings) -> Iterator[FileResult]:
    """Score and describe files; results come in order, each as soon as it and all before it are done.

    A file that cannot be read does not stop the others.
    """
    model = settings.load_model()
    decoded = (
        (file, _decode(data, settings.options))
        for file, data in zip(files, fetch_many(files, settings.fetch), strict=True)
    )
    return _described(model, files, decoded, settings) if settings.texts else _scored(model, decoded)


def _decode(data: bytes | ImageError, options: DecodeOptions) -> DecodedImage | ImageError:
    if isinstance(data, ImageError):
        return data
    try:
        return decode_image(data, options)
    except ImageError as error:
        return error


def _scored(model: ArtiMuse, decoded: Iterable[tuple[str, DecodedImage | ImageError]]) -> Iterator[FileResult]:
    batch: list[tuple[str, DecodedImage | ImageError]] = []
    for entry in decoded:
        batch.append(entry)
        if len(batch) == model.batch_size:
            yield from _score_batch(model, batch)
            batch = []
    yield from _score_batch(model, batch)


def _score_batch(model: ArtiMuse, batch: list[tuple[str, DecodedImage | ImageError]]) -> list[FileResult]:
    scores = iter(model.score([found.pixels for _, found in batch if isinstance(found, DecodedImage)]))
    return [
        FileResult(file, next(scores), None, found.warning)
        if isinstance(found, DecodedImage)
        else FileResult(file, None, found)
        for file, found in batch
    ]


def _described(
    model: ArtiMuse,
    files: Sequence[str],
    decoded: Iterable[tuple[str, DecodedImage | ImageError]],
    settings: ImageSettings,
) -> Iterator[FileResult]:
    assert settings.texts is not None
    texts = settings.texts.settings(model.protocol)
    results: dict[int, FileResult] = {}
    shown = 0
    readable: list[tuple[int, str | None]] = []  # of each picture that can be read, index in `files` and warning

    def pictures() -> Iterator[Pixels]:
        for place, (file, found) in enumerate(decoded):
            if isinstance(found, ImageError):
                results[place] = FileResult(file, None, found)
            else:
                readable.append((place, found.warning))
                yield found.pixels

    described = model.describe_each(
        pictures(), attributes=texts.titles, max_new_tokens=texts.max_new_tokens, sequences=settings.sequences
    )
    for number, description in described:
        place, warning = readable[number]
        results[place] = FileResult(files[place], description, None, warning)
        while shown in results:
            yield results.pop(shown)
            shown += 1
    yield from (results[place] for place in sorted(results))
