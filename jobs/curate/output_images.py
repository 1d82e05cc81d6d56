"""The images of chosen rows, fetched again and written beside the manifest or into tar files.

An image is taken only if its bytes are those that were scored. One that is gone or has changed leaves its row out, and
so does one of which the store has no SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
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

SHARD_IMAGES: Final = 10_000
"""Images of a tar file, as img2dataset has it."""

_FOLDER_IMAGES: Final = 1_000
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
    """Files `images/00000/00000042.jpg`, numbered in the order of the rows, so that no odd id gets into a name."""

    def __init__(self, workshop: Workshop) -> None:
        """Begin with number 0."""
        self._workshop = workshop
        self._count = 0

    def add(self, formats: list[str | None], images: Iterator[bytes | None]) -> tuple[NDArray[np.bool_], list[str]]:
        """Write images of these file formats; whether each is there, and the names of those that are."""
        kept, names = [], []
        for image, format_ in zip(images, formats, strict=True):
            kept.append(image is not None)
            if image is not None:
                names.append(f"images/{self._count // _FOLDER_IMAGES:05}/{self._count:08}.{_suffix(format_)}")
                with open(self._workshop.path(names[-1]), "wb") as file:
                    file.write(image)
                self._count += 1
        return np.array(kept, dtype=bool), names


class TarFiles:
    """Files `00000.tar` of images and of JSON with their rows, as WebDataset reads and img2dataset writes them."""

    def __init__(self, workshop: Workshop) -> None:
        """Begin with the first file."""
        self._workshop = workshop
        self._count = 0
        self._tar: tarfile.TarFile | None = None

    def add(self, rows: pa.Table, formats: list[str | None], images: Iterator[bytes | None]) -> NDArray[np.bool_]:
        """Write rows with their images of these file formats; whether each is there."""
        kept = []
        for image, record, format_ in zip(images, json_rows(rows), formats, strict=True):
            kept.append(image is not None)
            if image is not None:
                shard, number = divmod(self._count, SHARD_IMAGES)
                if not number:
                    self.close()
                    self._tar = tarfile.open(  # noqa: SIM115 - closed by `close`
                        self._workshop.path(f"{shard:05}.tar"), "w", format=tarfile.USTAR_FORMAT
                    )
                self._put(f"{shard:05}{number:04}.{_suffix(format_)}", image)
                self._put(f"{shard:05}{number:04}.json", json.dumps(record, ensure_ascii=False).encode())
                self._count += 1
        return np.array(kept, dtype=bool)

    def close(self) -> None:
        """Finish the file."""
        if self._tar:
            self._tar.close()

    def _put(self, name: str, data: bytes) -> None:
        assert self._tar is not None
        entry = tarfile.TarInfo(name)  # of the year 1970, by nobody: the same bytes every time
        entry.size = len(data)
        self._tar.addfile(entry, io.BytesIO(data))


def _suffix(format_: str | None) -> str:
    return _SUFFIXES.get(format_ or "", "bin")
