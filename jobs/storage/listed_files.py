"""Files of buckets for DuckDB: those of a list and no others, read only, with exact ranges.

Their sizes are known from the listing, so a file costs one request for its footer and one for each range of columns.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from fsspec.spec import AbstractFileSystem

from jobs.storage.buckets import read_range

_WHEN: Final = datetime(2000, 1, 1, tzinfo=UTC)  # that a file is still the same is for its readers to check


class ListedFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The part of an fsspec file system that DuckDB calls."""

    protocol = "listed"
    cachable = False

    def __init__(self, sizes: Mapping[str, int]) -> None:
        """Know files by their names, `listed://s3/bucket/key`, with the bytes of each."""
        super().__init__()
        self._sizes = sizes

    @classmethod
    def name_of(cls, uri: str) -> str:
        """The name here of an object."""
        return f"{cls.protocol}://{uri.replace('://', '/', 1)}"

    def open(self, path: str, mode: str = "rb", **_: Any) -> io.RawIOBase:
        """Open a file for reading."""
        if mode != "rb":
            raise PermissionError(f"{path}: is for reading")
        return _Ranges(path.removeprefix(f"{self.protocol}://").replace("/", "://", 1), self.size(path))

    def exists(self, path: str, **_: Any) -> bool:
        """Whether it is one of the list."""
        return path in self._sizes

    def glob(self, path: str, **_: Any) -> list[str]:
        """The file of that name, in which the signs of patterns are escaped."""
        name = re.sub(r"\[([*?[])\]", r"\1", path)
        return [name] if name in self._sizes else []

    def size(self, path: str) -> int:
        """Bytes of a file."""
        return self._sizes[path]

    def modified(self, path: str) -> datetime:  # noqa: ARG002
        """A time that never changes."""
        return _WHEN

    def unstrip_protocol(self, name: str) -> str:
        """Names are complete."""
        return name


class _Ranges(io.RawIOBase):
    """An object; each read is one request."""

    def __init__(self, uri: str, size: int) -> None:
        self._uri = uri
        self._size = size
        self._at = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._size, self._at + size)
        if end <= self._at:
            return b""
        data = read_range(self._uri, self._at, end)
        self._at += len(data)
        return data
