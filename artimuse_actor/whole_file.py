"""Files that appear whole or not at all: written aside, synced, renamed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_BEGIN = 32  # characters, of four bytes at most


@contextmanager
def whole_file(path: str | os.PathLike[str], aside: str | None = None) -> Iterator[str]:
    """The path of a new file, which is renamed to `path` when the block ends; an error in the block deletes it.

    Args:
        path: where the file is to appear; what is there is replaced. A missing folder is made when the file is whole.
        aside: folder in which it grows, on the same disk; by default it grows beside `path`, under a hidden name.

    Raises:
        OSError: the file cannot be written.
    """
    folder, name = os.path.split(os.path.abspath(path))
    begin = name[:_BEGIN]  # with all of it, the name could be too long
    growing = os.path.join(aside or folder, f"{'' if aside else f'.{begin}-'}{uuid.uuid4().hex}")
    os.makedirs(os.path.dirname(growing), exist_ok=True)
    try:
        yield growing
        rename_whole(growing, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(growing)
        raise


def rename_whole(growing: str, path: str | os.PathLike[str]) -> None:
    """Give a finished file its name; after a power cut the old file or the new one is there, whole."""
    sync(growing)
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)  # not before: nobody reads a table without files
    os.replace(growing, path)
    sync(folder)


def sync(path: str) -> None:
    """Flush a file, or a folder's entries, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
