"""A local path or file:// uri → bytes."""

from __future__ import annotations

import errno
import os
import stat
from typing import IO, Final

from artimuse_actor.errors import ImageError, file_too_large, reason_of
from artimuse_actor.fetch.byte_budget import Reserve
from artimuse_actor.fetch.confinement import check_open_file_inside, check_path_inside
from artimuse_actor.fetch.file_range import FileRange, changed_meanwhile
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.fetch.retry import TryAgain
from artimuse_actor.uris import local_path

_MISSING: Final = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


def local_version(status: os.stat_result) -> str:
    """The version of a local file: its size and time of modification."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def read_local(uri: str, options: FetchOptions, reserve: Reserve, part: FileRange | None = None) -> bytes:
    """One attempt to read the file that a local path or a file:// uri names, or a part of it.

    Raises:
        ImageError: `missing`, `forbidden`, `not_a_file`, `too_large`, `changed` or `outside_root`.
        TryAgain: the disk, or the network behind it, failed.
    """
    path = local_path(uri)
    try:
        if options.root is not None:
            check_path_inside(path, options.root)
        _check_regular(os.stat(path))  # to open a pipe waits for its writer, and to open a device may do anything
        with open(path, "rb", opener=_without_waiting) as file:
            if options.root is not None:
                check_open_file_inside(file.fileno(), options.root)
            status = os.fstat(file.fileno())
            _check_regular(status)
            if part is not None:
                return _read_part(file, part, options, reserve)
            if status.st_size > options.max_bytes:
                raise file_too_large(status.st_size, options.max_bytes)
            if not status.st_size:  # in /proc that means nothing: such a file may be endless, or wait for ever
                return b""
            reserve(status.st_size)
            data = file.read(status.st_size + 1)
    except ValueError as error:  # a NUL in the name
        raise ImageError("missing", f"No file can have this name: {error}.") from error
    except OSError as error:
        raise _translated(error) from error
    if len(data) > status.st_size:
        raise TryAgain("The file grows while it is read")
    return data


def _read_part(file: IO[bytes], part: FileRange, options: FetchOptions, reserve: Reserve) -> bytes:
    if part.size_bytes > options.max_bytes:
        raise file_too_large(part.size_bytes, options.max_bytes)
    reserve(part.size_bytes)
    file.seek(part.first)
    data = file.read(part.size_bytes)
    is_other = part.version not in (None, local_version(os.fstat(file.fileno())))  # looked at after the reading
    if is_other or len(data) < part.size_bytes:
        raise changed_meanwhile()
    return data


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise ImageError("not_a_file", f"The path names {kind}, not an image file.")


def _translated(error: OSError) -> ImageError | TryAgain:
    if error.errno in _MISSING:
        return ImageError("missing", "There is no such file.")
    if isinstance(error, PermissionError):
        return ImageError("forbidden", "Reading the file is not permitted.")
    return TryAgain(reason_of(error))
