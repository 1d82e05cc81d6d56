"""A unit's rows → a block of pixels: fetch, decode, resize, on CPU tasks.

Every error of one image becomes an error row here, and the rest of its unit goes on. A picture that crashes its decoder
kills the task, and Ray runs the unit again. A note in the store then shows that the unit was begun before, so its
pictures are decoded in a child process, which dies instead of the task (see `attempts`). A child process costs a little
time, so only such units use one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from artimuse_actor.errors import ImageError
from artimuse_actor.fetch.fetch import FETCH_AHEAD, fetch_many
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.images.child_decoder import ChildDecoder
from artimuse_actor.images.decode import DecodedImage
from artimuse_actor.images.decoder_limits import can_limit_this_process, decode_within_limits
from artimuse_actor.images.node_memory import share_bytes
from artimuse_actor.images.options import IMAGE_SIZE, DecodeOptions, Pixels
from artimuse_actor.uris import shown_uri, without_secrets
from jobs.code_identity import CodeIdentity
from jobs.plan.plan import Plan
from jobs.score.attempts import Attempt
from jobs.score.image_source import rewritten, rewritten_files, unit_sources
from jobs.score.meters import Meters, node_name
from jobs.storage.place import Place
from jobs.store.known_images import KnownRows
from jobs.store.layout import attempt_path
from jobs.store.plan_progress import unit_rows_of
from schemas.manifest import QUESTION
from schemas.scores import ERROR, OK
from schemas.units import PIXELS, scored_unit


@dataclass(frozen=True)
class UnitLoader:
    """Loads the units of a plan.

    Attributes:
        place: the place of the store.
        plan: the plan of the units.
        options: how images are decoded.
        answers: the columns that the model fills.
        known: rows that are copied to images with the same bytes.
        fetching: how image files are fetched.
        meters: counts every unit.
        code: the driver's code, which this process must run too; None to check nothing.
    """

    place: Place
    plan: Plan
    options: DecodeOptions
    answers: pa.Schema
    known: KnownRows
    fetching: FetchOptions = field(default_factory=FetchOptions)
    meters: Meters = field(default_factory=Meters)
    code: CodeIdentity | None = None

    def __call__(self, units: pa.Table) -> Iterator[pa.Table]:
        """A block of schema `UNIT` → for each of its rows, the loaded images of that unit, of schema `loaded_unit`."""
        if self.code:
            self.code.check_loading()
        with ChildDecoder(self.options) as child:
            for unit in units.to_pylist():
                block = self._load_unit(unit["shard"], unit["unit"], child)
                assert block is not None
                yield block

    def load_without_model(self, shard: int, number: int, child: ChildDecoder) -> pa.Table | None:
        """The block of a unit, decoded in a child, if none of its images needs a model; None if one does."""
        return self._load_unit(shard, number, child, without_model=True)

    def _load_unit(
        self, shard: int, number: int, child: ChildDecoder, *, without_model: bool = False
    ) -> pa.Table | None:
        rows = unit_rows_of(self.place, self.plan, shard, number).to_pylist()
        pixels = np.zeros((len(rows), IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        attempt = Attempt.begin(self.place, attempt_path(self.plan.plan_id, shard, number))
        in_child = without_model or attempt.number > 1 or not can_limit_this_process()
        decode = _Once(child.decode if in_child else _DecoderHere(self.options, child, self.fetching).decode)
        changed = rewritten_files(rows)
        ahead = 1 if attempt.is_careful else FETCH_AHEAD
        images, began = (
            _Awaited(fetch_many(unit_sources(rows, attempt, changed, self.fetching), self.fetching, ahead)),
            perf_counter(),
        )
        loaded: list[dict[str, Any]] = []
        for row, data, place in zip(rows, images, pixels, strict=True):
            about = self._load_image(row, data, decode, self.plan.shards[shard].replaces, into=place)
            if without_model and _needs_model(about):
                attempt.end()
                return None
            loaded.append(_keys(row) | about)
        changed = rewritten_files(rows) - changed  # while they were read
        for index, row in enumerate(rows):
            if row["uri"] is None and row["source_file"] in changed:
                loaded[index] = _keys(row) | _error(row, rewritten(row["source_file"]))
        decode_s = perf_counter() - began - images.waited_s
        attempt.end()
        spent = {"fetched_bytes": images.size_bytes, "fetch_s": images.waited_s, "decode_s": decode_s}
        loaded[0]["spent"] = {"loader": node_name(), **spent}
        failed = Counter(row["error_type"] for row in loaded if row["status"] == ERROR)
        self.meters.loaded(len(rows), failed, spent)
        unit = {"shard": shard, "unit": number}
        columns = pa.Table.from_pylist([unit | row for row in loaded], schema=scored_unit(self.answers))
        questions = pa.array([row.get("question") for row in rows], QUESTION.type)  # older plans have none
        columns = columns.append_column(QUESTION, questions)
        return columns.append_column(PIXELS, _pixel_column(pixels, pa.array(map(_needs_model, loaded), pa.bool_())))

    def _load_image(
        self,
        row: dict[str, Any],
        data: bytes | ImageError,
        decode: _Once,
        replaces: str | None,
        into: Pixels,
    ) -> dict[str, Any]:
        """The columns of one row without its keys; pixels are written to `into`, and missing columns become null.

        A picture that gets only texts, and is no longer the one of its score in the file `replaces`, is scored too.
        """
        if isinstance(data, ImageError):
            return _error(row, _of_listed(data) if self.plan.listed and row["version"] is not None else data)
        about: dict[str, Any] = {"sha256": hashlib.sha256(data).hexdigest()}
        texts_only = row["texts_only"]
        if texts_only and replaces:
            texts_only = self.known.digest(replaces, row["image_id"]) in (None, about["sha256"])
        if not texts_only and (known := self.known.find(about["sha256"])):
            return about | {"status": OK, "texts_only": False} | known
        try:
            image = decode(about["sha256"], data)
        except ImageError as error:
            return about | _error(row, error)
        into[:] = image.pixels
        return about | {
            "status": OK,
            "texts_only": texts_only,
            "width": image.width,
            "height": image.height,
            "format": image.format,
            "phash": image.phash,
            "warning": image.warning,
            "taken_at": datetime.fromisoformat(image.taken_at) if image.taken_at else None,
            "camera": image.camera,
            "orientation": image.orientation,
        }


class _Once:
    """Decodes a file once when it comes several times in a row, as those do about which several questions are asked."""

    def __init__(self, decode: Callable[[bytes], DecodedImage]) -> None:
        self._decode = decode
        self._last: tuple[str, DecodedImage | ImageError] | None = None

    def __call__(self, sha256: str, data: bytes) -> DecodedImage:
        if self._last is None or self._last[0] != sha256:
            try:
                self._last = sha256, self._decode(data)
            except ImageError as error:
                self._last = sha256, error
        found = self._last[1]
        if isinstance(found, ImageError):
            raise found
        return found


@dataclass(frozen=True)
class _DecoderHere:
    """Decodes in this process, within memory limits.

    Attributes:
        options: how images are decoded.
        child: decodes a picture that needs more memory than this process may use, see `node_memory`.
        fetching: how the next images are fetched at the same time, which takes memory too.
    """

    options: DecodeOptions
    child: ChildDecoder
    fetching: FetchOptions

    def decode(self, data: bytes) -> DecodedImage:
        # Twice, since fetched bytes are copied once.
        others_bytes = 2 * (self.fetching.held_bytes + self.fetching.max_bytes)
        memory_bytes = min(share_bytes(), self.options.decoder_memory_bytes)
        try:
            return decode_within_limits(data, replace(self.options, decoder_memory_bytes=memory_bytes), others_bytes)
        except ImageError as error:
            if error.error_type != "decoder_memory":
                raise
        return self.child.decode(data)


class _Awaited:
    """Iterates over fetched images and measures the waiting.

    Attributes:
        waited_s: seconds of waiting for them.
        size_bytes: bytes of the images so far.
    """

    def __init__(self, images: Iterator[bytes | ImageError]) -> None:
        self._images = images
        self.waited_s, self.size_bytes = 0.0, 0

    def __iter__(self) -> Iterator[bytes | ImageError]:
        return self

    def __next__(self) -> bytes | ImageError:
        began = perf_counter()
        try:
            data = next(self._images)
        finally:
            self.waited_s += perf_counter() - began
        self.size_bytes += len(data) if isinstance(data, bytes) else 0
        return data


def _pixel_column(pixels: Pixels, readable: pa.BooleanArray) -> pa.FixedSizeBinaryArray:
    """(N, 448, 448, 3) uint8 as one Arrow column, without a copy; null where the image is not readable."""
    # The values of a boolean array are a bitmap, just like Arrow's validity bitmap.
    buffers = [readable.buffers()[1], pa.py_buffer(pixels)]
    return pa.FixedSizeBinaryArray.from_buffers(PIXELS.type, len(pixels), buffers)


def _keys(row: dict[str, Any]) -> dict[str, Any]:
    uri = shown_uri(row["uri"]) if row["uri"] else None
    return {"uri": uri, **{name: row[name] for name in ("image_id", "version", "texts_only")}}


def _needs_model(row: dict[str, Any]) -> bool:
    return row["status"] == OK and "copied_from" not in row


def _error(row: dict[str, Any], error: ImageError) -> dict[str, Any]:
    message = error.message
    if error.by_settings:  # a run leaves such rows alone until their type is named
        message = f"{message.removesuffix('.')} and run again with --retry-errors {error.error_type}."
    return {
        "status": ERROR,
        "error_type": error.error_type,
        "error_message": without_secrets(message, row["uri"]),
        "retryable": error.retryable,
    }


def _of_listed(error: ImageError) -> ImageError:
    """The error of an image that was listed with its size a moment ago: if it is not there now, it may be later."""
    if error.error_type not in ("missing", "forbidden"):
        return error
    return ImageError(error.error_type, error.message, retryable=True)
