"""Files of servers, as they are before they are read."""

from __future__ import annotations

import errno
from dataclasses import dataclass


@dataclass(frozen=True)
class RemoteFile:
    """A file of a server that sends parts of it.

    Attributes:
        size_bytes: its length.
        version: its entity tag, else its time of modification, else None.
    """

    size_bytes: int
    version: str | None


@dataclass(frozen=True)
class RemoteObject:
    """An object of a folder in a bucket.

    Attributes:
        name: without the folder.
        size_bytes: its length.
        etag: changes when the content does.
    """

    name: str
    size_bytes: int
    etag: str


def storage_error(message: str) -> OSError:
    """The error of a file that cannot be read or written, which `jobs.storage.parquet` takes for no broken file."""
    error = OSError(message)
    error.errno = errno.EIO
    return error
