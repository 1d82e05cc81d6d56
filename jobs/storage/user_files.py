"""Files of the user's, on a disk or on S3: opened to be read, or written whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final, TypeVar

import pyarrow as pa

from artimuse_actor.errors import ManifestError, StoreError, one_line
from artimuse_actor.images.memory_limit import memory_limit
from artimuse_actor.whole_file import whole_file
from jobs.storage.parquet import parquet_file
from jobs.storage.place import s3_filesystem

BATCH_ROWS: Final = 65_536
_BATCH_BYTES: Final = 2 * 1024**3
_T = TypeVar("_T")


def is_hidden(relative: str) -> bool:
    """Whether dataset readers pass over a file: work in progress of a store, for one."""
    return any(part.startswith(("_", ".")) for part in relative.split("/"))


def is_unicode(text: str) -> bool:
    """Whether a string is without lone surrogates, which JSON allows and no file format stores."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def names_parquet(path: str) -> bool:
    """Whether a file is called like a Parquet file."""
    return path.lower().endswith((".parquet", ".parq"))


def open_source(path: str) -> IO[bytes]:
    """A local path, file:// or s3:// uri as a file."""
    if path.startswith("s3://"):
        file: IO[bytes] = s3_filesystem().open(path, "rb")
        return file
    return open(os.path.expanduser(path.removeprefix("file://")), "rb")


def _open_for_arrow(path: str) -> IO[bytes]:
    if path.startswith("s3://"):
        return open_source(path)
    file: IO[bytes] = pa.OSFile(os.path.expanduser(path.removeprefix("file://")), "rb")
    return file


@contextmanager
def write_user_file(path: str) -> Iterator[str]:
    """A path on this machine to write to, whose file becomes the user's when the block ends: whole or not at all.

    Args:
        path: a local path, file:// or s3:// uri; what is there is replaced, and missing folders are made.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        if path.startswith("s3://"):
            with tempfile.TemporaryDirectory() as folder:
                yield (growing := os.path.join(folder, os.path.basename(path)))
                s3_filesystem().put_file(growing, path)
        else:
            local = os.path.abspath(os.path.expanduser(path.removeprefix("file://")))
            with whole_file(local) as growing:
                yield growing
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error}.") from error


@contextmanager
def open_parquet(path: str) -> Iterator[Any]:
    """A Parquet file (`pyarrow.parquet.ParquetFile`); whatever is wrong with it, also later, is a ManifestError."""
    try:
        with _open_for_arrow(path) as file, parquet_file(file, pre_buffer=True) as parquet:
            yield parquet
    except MemoryError as error:  # Arrow's is one too
        raise ManifestError(
            f"{path}: reading {BATCH_ROWS:,} of its rows takes more than {_BATCH_BYTES:,} bytes of memory. "
            "No image was read. Write it anew with smaller values and row groups."
        ) from error
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path}: cannot be read as Parquet: {one_line(str(error))}.") from error


def limited(batches: Iterator[_T]) -> Iterator[_T]:
    """The same, within a limit on memory: a few bytes of a compressed file can stand for terabytes."""
    while True:
        with memory_limit(_BATCH_BYTES):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch
