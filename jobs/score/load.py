"""A unit's rows → a block of pixels: fetch, decode, resize, on CPU tasks.

Every error of one image becomes an error row here, and the rest of its unit goes on. A picture that crashes its decoder
kills the task, and Ray runs the unit again. A note in the store then shows that the unit was begun before, so its
pictures are decoded in a child process, which dies instead of the task (see `attempts`). A child process costs a little
time, so only such units use one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from artimuse_actor.errors import ImageError, reason_of
from artimuse_actor.fetch.fetch import FETCH_AHEAD, fetch_many
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.images.child_decoder import ChildDecoder
from artimuse_actor.images.decode import DecodedImage
from artimuse_actor.images.decoder_limits import can_limit_this_process, decode_within_limits
from artimuse_actor.images.options import IMAGE_SIZE, DecodeOptions, Pixels
from artimuse_actor.uris import shown_uri, without_secrets
from jobs.code_identity import CodeIdentity
from jobs.manifest.listing import version_of
from jobs.plan.plan import Plan
from jobs.score.attempts import FATAL, Attempt
from jobs.score.meters import Meters, node_name
from jobs.storage.embedded_images import embedded_image
from jobs.storage.place import Place
from jobs.store.known_images import KnownRows
from jobs.store.layout import attempt_path
from jobs.store.plan_progress import unit_rows_of
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
        loaded = []
        attempt = Attempt.begin(self.place, attempt_path(self.plan.plan_id, shard, number))
        here = _DecoderHere(self.options, child, self.fetching)
        in_child = without_model or attempt.number > 1 or not can_limit_this_process()
        decode = child.decode if in_child else here.decode
        replaces = self.plan.shards[shard].replaces
        changed = _rewritten_files(rows)
        ahead = 1 if attempt.is_careful else FETCH_AHEAD
        images, began = _Awaited(fetch_many(_sources(rows, attempt, changed), self.fetching, ahead)), perf_counter()
        for index, data in enumerate(images):
            row = rows[index]
            stored = self.known.digest(replaces, row["image_id"]) if replaces and row["texts_only"] else None
            if isinstance(data, ImageError) and self.plan.listed and row["version"] is not None:
                data = _of_listed(data)
            about = self._load_image(data, decode, row["texts_only"], stored, into=pixels[index])
            if without_model and about["status"] == OK and "copied_from" not in about:
                attempt.end()
                return None
            keys = {name: row[name] for name in ("image_id", "version", "texts_only")}
            keys["uri"] = shown_uri(row["uri"]) if row["uri"] else None
            if about["status"] == ERROR:
                about["error_message"] = without_secrets(about["error_message"], row["uri"])
            loaded.append({"shard": shard, "unit": number, **keys, **about})
        for index in _rows_of_files(rows, _rewritten_files(rows) - changed):
            keys = {name: loaded[index][name] for name in ("shard", "unit", "image_id", "version", "uri")}
            error = _error(_rewritten(rows[index]["source_file"]))
            loaded[index] = keys | {"texts_only": rows[index]["texts_only"]} | error
        decode_s = perf_counter() - began - images.waited_s
        attempt.end()
        spent = {"fetched_bytes": images.size_bytes, "fetch_s": images.waited_s, "decode_s": decode_s}
        loaded[0]["spent"] = {"loader": node_name(), **spent}
        failed = Counter(row["error_type"] for row in loaded if row["status"] == ERROR)
        self.meters.loaded(len(rows), failed, spent)
        columns = pa.Table.from_pylist(loaded, schema=scored_unit(self.answers))
        readable = pa.array([row["status"] == OK and "copied_from" not in row for row in loaded])
        return columns.append_column(PIXELS, _pixel_column(pixels, readable))

    def _load_image(
        self,
        data: bytes | ImageError,
        decode: Callable[[bytes], DecodedImage],
        texts_only: bool,
        stored: str | None,
        into: Pixels,
    ) -> dict[str, Any]:
        """The columns of one row without its keys; pixels are written to `into`, and missing columns become null.

        A picture that gets only texts, and is no longer the one of its score (whose digest is `stored`), is scored too.
        """
        if isinstance(data, ImageError):
            return _error(data)
        about: dict[str, Any] = {"sha256": hashlib.sha256(data).hexdigest()}
        is_other = texts_only and stored is not None and stored != about["sha256"]
        texts_only = texts_only and not is_other
        if not texts_only and (known := self.known.find(about["sha256"])):
            return about | {"status": OK, "texts_only": False} | known
        try:
            image = decode(data)
        except ImageError as error:
            return about | _error(error)
        into[:] = image.pixels
        return about | {
            "status": OK,
            "texts_only": texts_only,
            "width": image.width,
            "height": image.height,
            "format": image.format,
            "phash": image.phash,
        }


@dataclass(frozen=True)
class _DecoderHere:
    """Decodes in this process, within memory limits.

    Attributes:
        options: how images are decoded.
        child: decodes a picture that needs more memory than this process may use.
        fetching: how the next images are fetched at the same time, which takes memory too.
    """

    options: DecodeOptions
    child: ChildDecoder
    fetching: FetchOptions

    def decode(self, data: bytes) -> DecodedImage:
        # Twice, since fetched bytes are copied once.
        others_bytes = 2 * (self.fetching.held_bytes + self.fetching.max_bytes)
        try:
            return decode_within_limits(data, self.options, others_bytes)
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


def _error(error: ImageError) -> dict[str, Any]:
    return {
        "status": ERROR,
        "error_type": error.error_type,
        "error_message": error.message,
        "retryable": error.retryable,
    }


def _of_listed(error: ImageError) -> ImageError:
    """The error of an image that was listed with its size a moment ago: if it is not there now, it may be later."""
    if error.error_type not in ("missing", "forbidden"):
        return error
    return ImageError(error.error_type, error.message, retryable=True)


def _rewritten_files(rows: list[dict[str, Any]]) -> set[str]:
    """Parquet files with images of these rows that are no longer the files that were planned."""
    planned = {(row["source_file"], row["source_version"]) for row in rows if row["uri"] is None}
    return {file for file, version in planned if version is not None and _version_now(file) != version}


def _version_now(file: str) -> str | None:
    try:
        return version_of(file)
    except OSError:  # reading it will say why
        return None


def _rows_of_files(rows: list[dict[str, Any]], files: set[str]) -> list[int]:
    return [index for index, row in enumerate(rows) if row["uri"] is None and row["source_file"] in files]


def _rewritten(file: str) -> ImageError:
    return ImageError(
        "changed", f"{file} was rewritten after it was listed, so its rows may be other images now. Run again.",
        retryable=True,
    )  # fmt: skip


def _sources(
    rows: list[dict[str, Any]], attempt: Attempt, changed: Collection[str]
) -> Iterator[str | bytes | ImageError]:
    for number, row in enumerate(rows):
        attempt.reach(number)
        yield FATAL if number in attempt.fatal else image_source(row, changed)


def image_source(row: dict[str, Any], changed: Collection[str] = ()) -> str | bytes | ImageError:
    """The source of a row's image: a uri, or the bytes if they are embedded in a file that is not in `changed`."""
    if row["uri"] is not None:
        return str(row["uri"])
    file = row["source_file"]
    if file in changed and _version_now(file) is not None:
        return _rewritten(file)
    try:
        data = embedded_image(file, row["source_version"], row["source_row_group"], row["source_row"])
    except ImageError as error:
        return error
    except FileNotFoundError:
        return ImageError("missing", f"The Parquet file of the image is gone: {file}.")
    except (OSError, pa.ArrowException) as error:
        return ImageError("fetch_failed", f"{file}: {reason_of(error)}", retryable=True)
    return data if data is not None else ImageError("missing", "The row holds no image: its bytes are null.")
