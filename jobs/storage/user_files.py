"""The user's own files, on a disk or in a bucket: read, or written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final, TypeVar

import pyarrow as pa

from artimuse_actor.errors import StoreError, UsageError
from artimuse_actor.images.memory_limit import memory_limit
from artimuse_actor.uris import in_bucket, user_path
from artimuse_actor.whole_file import whole_file
from jobs.storage.buckets import is_in_bucket, open_object, put_file
from jobs.storage.ranged_file import open_ranged

BATCH_ROWS: Final = 65_536
LIMIT_BYTES: Final = 2 * 1024**3
"""Memory that a batch of a Parquet file from elsewhere may take."""
_MARKED_BYTES: Final = 16 * 1024**2
_T = TypeVar("_T")


def is_hidden(relative: str) -> bool:
    """Whether dataset readers skip a file, such as a store's work in progress: a part begins with `_` or `.`."""
    return any(part.startswith(("_", ".")) for part in relative.split("/"))


def is_unicode(text: str) -> bool:
    """Whether a string has no lone surrogates, which JSON allows but no file format stores."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def is_remote(path: str) -> bool:
    """Whether a file is read over the network."""
    return in_bucket(path) or path.startswith("hf://")


def open_source(path: str) -> IO[bytes]:
    """Open a local path, a file:// or hf:// uri, or an object of a bucket for reading. Raises OSError."""
    if path.startswith("hf://"):
        ranged: IO[bytes] = open_ranged(path)
        return ranged
    if in_bucket(path):
        return open_object(path)
    return open(user_path(path), "rb")


def open_for_arrow(path: str) -> IO[bytes]:
    """As `open_source`; a local file is one of pyarrow's own."""
    if is_remote(path):
        return open_source(path)
    file: IO[bytes] = pa.OSFile(os.fsencode(user_path(path)), "rb")
    return file


def is_there(path: str) -> bool:
    """Whether there is a file, or a folder, at a local path, file:// uri or in a bucket."""
    return is_in_bucket(path) if in_bucket(path) else os.path.lexists(user_path(path))


def refuse_other_file(option: str, path: str, kind: str, mark: bytes) -> None:
    """Raise UsageError if a folder, or another file, is in the place of one that is written again and again.

    Args:
        option: that names the file.
        path: of the file.
        kind: what may be replaced.
        mark: bytes that every such file has within its first `_MARKED_BYTES`.
    """
    try:
        with open_source(path) as file:
            found = file.read(_MARKED_BYTES)
    except IsADirectoryError:
        raise UsageError(f"{option} {path}: is a folder. Name a file.") from None
    except Exception:  # nothing is there, or writing will say what is wrong
        return
    if len(found) > len(b"[]") and mark not in found:  # an empty file, or list, is no loss
        raise other_file(option, path, kind)


def other_file(option: str, path: str, kind: str) -> UsageError:
    """The error of a file of another kind in the place of one that is to be written."""
    return UsageError(
        f"{option} {path}: is there already and is no earlier {kind}. Nothing was written. Choose another name, or "
        "move it away."
    )


@contextmanager
def write_user_file(path: str) -> Iterator[str]:
    """Give a local path to write to; when the block ends, that file appears at `path`, whole or not at all.

    Args:
        path: a local path, a file:// uri, or that of an object; an existing file is replaced, missing folders are made.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        if in_bucket(path):
            with tempfile.TemporaryDirectory() as folder:
                yield (growing := os.path.join(folder, os.path.basename(path)))
                put_file(growing, path)
        else:
            with whole_file(os.path.realpath(user_path(path))) as growing:  # a link stays
                yield growing
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written: {error.strerror or error}. Give permission or make room there, or choose "
            "another place."
        ) from error


def limited(batches: Iterator[_T]) -> Iterator[_T]:
    """The same batches, read under a memory limit: a few bytes of a compressed file can expand to terabytes."""
    while True:
        with memory_limit(LIMIT_BYTES):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch
