"""A file in a bucket, of the web or the hub, read by ranges: large while all of it is wanted, small to go past much."""

from __future__ import annotations

import io
import os
from typing import Any, Final

from artimuse_actor.errors import ImageError
from artimuse_actor.fetch.fetch import fetch, look_at
from artimuse_actor.fetch.file_range import FileRange
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.fetch.remote_file import storage_error
from artimuse_actor.uris import in_bucket

# A request takes about as long as a megabyte: a gap that is larger is not read.
GAP_BYTES: Final = 1 << 20
LEAST_BYTES: Final = 1 << 14
MOST_BYTES: Final = 4 << 20


class RangedFile(io.RawIOBase):
    """A binary file for readers of archives and tables.

    Attributes:
        size_bytes: its length.
        requests: ranges asked for so far.
    """

    def __init__(self, uri: str, size_bytes: int, version: str | None, options: FetchOptions) -> None:
        """Read nothing yet. With a version, a file of another one is not read."""
        super().__init__()
        self.size_bytes, self.requests = size_bytes, 0
        self._uri, self._version, self._options = uri, version, options
        self._at = 0
        self._start, self._data = 0, b""
        self._block = LEAST_BYTES

    def tell(self) -> int:
        """The place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go somewhere; nothing is read."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size_bytes}[whence]
        return self._at

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes, fewer only at the end. Raises OSError: they cannot be read."""
        end = self.size_bytes if size is None or size < 0 else min(self._at + size, self.size_bytes)
        parts = []
        while self._at < end:
            if not self._start <= self._at < self._start + len(self._data):
                self._fetch(end - self._at)
            part = self._data[self._at - self._start : end - self._start]
            parts.append(part)
            self._at += len(part)
        return b"".join(parts)

    def _fetch(self, least_bytes: int) -> None:
        gap = self._at - (self._start + len(self._data))
        # What was read and not wanted counts for the next range: twice as much, or as little as possible.
        self._block = min(2 * self._block, MOST_BYTES) if 0 <= gap <= GAP_BYTES else LEAST_BYTES
        wanted = min(max(self._block, min(least_bytes, MOST_BYTES)), self.size_bytes - self._at)
        self.requests += 1
        try:
            self._data = fetch(FileRange(self._uri, self._at, wanted, self._version), self._options)
        except ImageError as error:
            raise storage_error(error.message) from error
        self._start = self._at


def open_ranged(uri: str) -> Any:
    """A file of the hub, or of Google or Azure. Raises OSError: it cannot be read."""
    options = FetchOptions()
    try:
        found = look_at(uri, options)
        return RangedFile(uri, found.size_bytes, found.version if in_bucket(uri) else None, options)
    except ImageError as error:
        if error.error_type == "missing":
            raise FileNotFoundError(error.message) from error
        raise storage_error(error.message) from error
