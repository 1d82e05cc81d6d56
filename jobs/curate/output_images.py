"""The images of chosen rows, fetched again and written beside the manifest or into tar files.

An image is taken only if its bytes are those that were scored. One that is gone or has changed leaves its row out, and
so does one of which the store has no SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, count
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from artimuse_actor.errors import ImageError
from artimuse_actor.fetch.fetch import fetch_many
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.images.options import FORMATS
from artimuse_actor.images.raw_kind import RAW_KINDS
from jobs.curate.output_place import Workshop
from jobs.curate.row_writers import json_rows
from jobs.curate.sample_keys import NUMBER, source_key
from jobs.curate.tar_size import TarSize
from jobs.manifest.listing import IMAGE_SUFFIXES
from jobs.words import json_value

IMAGES: Final = "images"
"""Folder of copied images."""

_FOLDER_IMAGES: Final = 1_000
_MAX_NAME_BYTES: Final = 180  # with the suffix and the target's own path within what all systems take
_NAMING: Final = ("image_id", "format")
# Of these formats only: a store from elsewhere may name any, and a path is made of it.
_SUFFIXES: Final = {name: name.lower() for name in (*FORMATS, *RAW_KINDS)} | {
    **{"JPEG": "jpg", "MPO": "jpg", "JPEG2000": "jp2", "HEIF": "heic"},
}


def fetch_scored(rows: pa.Table, embedded: pa.ChunkedArray | None, options: FetchOptions) -> Iterator[bytes | None]:
    """The bytes that were scored, or None, of each row.

    Args:
        rows: with the columns `uri` and `sha256` of the scores table.
        embedded: images that a manifest holds itself: bytes, or structs with `bytes`.
        options: see `FetchOptions`.
    """
    nowhere = ImageError("missing", "It has no uri.")
    here = [None] * len(rows) if embedded is None else embedded.to_pylist()
    sources: list[Any] = []
    for uri, image in zip(rows["uri"].to_pylist(), here, strict=True):
        data = image.get("bytes") if isinstance(image, dict) else image
        sources.append(uri if uri is not None else nowhere if data is None else data)
    for data, sha256 in zip(fetch_many(sources, options), rows["sha256"].to_pylist(), strict=True):
        yield data if isinstance(data, bytes) and hashlib.sha256(data).hexdigest() == sha256 else None


class CopiedImages:
    """Files `images/…`, called as the ids, or `images/00000/00000042.jpg` where an id is no name for a file."""

    def __init__(self, workshop: Workshop) -> None:
        """Begin with number 0."""
        self._workshop = workshop
        self._count = 0

    def add(self, about: pa.Table, images: Iterator[bytes | None]) -> tuple[NDArray[np.bool_], list[str]]:
        """Write images; whether each is there, and the names of those that are.

        Args:
            about: `image_id` and `format`.
            images: see `fetch_scored`.
        """
        kept, names = [], []
        for image, image_id, format_ in zip(images, *(about[name].to_pylist() for name in _NAMING), strict=True):
            kept.append(image is not None)
            if image is not None:
                names.append(self._write(image, image_id, _suffix(format_)))
                self._count += 1
        return np.array(kept, dtype=bool), names

    def _write(self, image: bytes, image_id: str, suffix: str) -> str:
        for name in chain([file_name(image_id, suffix)], self._numbered(suffix)):
            with suppress(FileExistsError, NotADirectoryError, IsADirectoryError):  # such as a.jpg/b.jpg beside a.jpg
                if name is not None:
                    with open(self._workshop.path(f"{IMAGES}/{name}"), "xb") as file:
                        file.write(image)
                    return f"{IMAGES}/{name}"
        raise AssertionError("there are more numbers than files")

    def _numbered(self, suffix: str) -> Iterator[str]:
        number = f"{self._count // _FOLDER_IMAGES:05}/{self._count:08}"
        yield f"{number}.{suffix}"
        yield from (f"{number}-{more}.{suffix}" for more in count(2))


def file_name(image_id: str, suffix: str) -> str | None:
    """An id as the path of a file below a folder, on every system; None if it is no such name."""
    parts = image_id.split("/")
    if len(image_id.encode()) > _MAX_NAME_BYTES or not all(map(_is_plain, parts)):
        return None
    return image_id if os.path.splitext(image_id)[1].lower() in IMAGE_SUFFIXES else f"{image_id}.{suffix}"


def _is_plain(part: str) -> bool:
    return part.isprintable() and not re.search(r'^[._ ]|^$|[\\:*?"<>|]|[. ]$', part)


class TarFiles:
    """Files `00000.tar` of images and what belongs to them, as WebDataset reads and img2dataset writes them.

    Beside the image `000000042.jpg` lie `000000042.json`, its row, and, if the row has such, `.txt` and `.cls`.
    """

    def __init__(self, workshop: Workshop, size: TarSize, keys: str) -> None:
        """Begin with the first file.

        Args:
            workshop: where they are made.
            size: of a file.
            keys: `number`, or `source`: the names of the samples in the tars that the images are members of.
        """
        self._workshop = workshop
        self._size = size
        self._keys = keys
        self._files = 0
        self._images = 0  # of the open file
        self._bytes = 0
        self._tar: tarfile.TarFile | None = None

    def add(self, rows: pa.Table, about: pa.Table, images: Iterator[bytes | None]) -> NDArray[np.bool_]:
        """Write samples; whether the image of each is there.

        Args:
            rows: for the JSON.
            about: of the same rows `image_id`, `uri` and `format`; `txt` and `cls` are files of the sample, and the
                fields of an object in `json` are of its JSON, too.
            images: see `fetch_scored`.
        """
        kept = []
        for image, record, row in zip(images, json_rows(rows), about.to_pylist(), strict=True):
            kept.append(image is not None)
            if image is not None:
                files = {_suffix(row["format"]): image, "json": _json(row.get("json"), record)}
                files |= {end: row[end].encode() for end in ("txt", "cls") if row.get(end) is not None}
                self._put(row, files)
        return np.array(kept, dtype=bool)

    def close(self) -> None:
        """Finish the file."""
        if self._tar:
            self._tar.close()

    def _put(self, row: dict[str, Any], files: dict[str, bytes]) -> None:
        more = sum(map(len, files.values()))
        if self._tar is None or self._size.is_full(self._images, self._bytes, more):
            self.close()
            # Plain names take the oldest form, which all programs read; those of a source may be long.
            form = tarfile.USTAR_FORMAT if self._keys == NUMBER else tarfile.GNU_FORMAT
            path = self._workshop.path(f"{self._files:05}.tar")
            self._tar = tarfile.open(path, "w", format=form)  # noqa: SIM115 - closed by `close`
            self._files, self._images, self._bytes = self._files + 1, 0, 0
        key = (
            f"{self._files - 1:05}{self._images:04}"
            if self._keys == NUMBER
            else source_key(row["image_id"], row["uri"])
        )
        for end, data in files.items():
            entry = tarfile.TarInfo(f"{key}.{end}")  # of the year 1970, by nobody: the same bytes every time
            entry.size = len(data)
            self._tar.addfile(entry, io.BytesIO(data))
        self._images += 1
        self._bytes += more


def _json(source: str | None, record: dict[str, Any]) -> bytes:
    """The row as JSON; before it, the fields that the source's own JSON has."""
    try:
        fields = json.loads(source) if source is not None else {}
        before = json_value(fields if isinstance(fields, dict) else {"json": fields})
    except (ValueError, RecursionError):
        before = {"json": source}
    return json.dumps(before | record, ensure_ascii=False).encode()


def _suffix(format_: str | None) -> str:
    return _SUFFIXES.get(format_ or "", "bin")
