"""Parts of files, such as members of tars, read with few requests: neighbours are read together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from artimuse_actor.errors import ImageError, file_too_large
from artimuse_actor.fetch.fetch import fetch_many
from artimuse_actor.fetch.file_range import FileRange
from artimuse_actor.fetch.options import FetchOptions

# A request to S3 takes about as long as a megabyte; between two parts, up to an eighth of that is read and dropped.
GAP_BYTES: Final = 128 << 10
TOGETHER_BYTES: Final = 8 << 20
_AHEAD: Final = 4


def read_parts(parts: Sequence[FileRange], options: FetchOptions) -> Iterator[bytes | ImageError]:
    """The bytes of each part in order, or the error that kept them away.

    Parts of the same file that follow each other are read by one request, as far as it does not get too large. A part
    above `max_bytes` is an error and is not read.
    """
    groups = list(_neighbours(parts, options.max_bytes))
    widened = replace(
        options,
        max_bytes=max(options.max_bytes, TOGETHER_BYTES),
        held_bytes=max(options.held_bytes // 4, 2 * TOGETHER_BYTES),
    )
    fetched = fetch_many([_source(group, options.max_bytes) for group in groups], widened, _AHEAD)
    for group, data in zip(groups, fetched, strict=True):
        for part in group:
            start = part.first - group[0].first
            yield data[start : start + part.size_bytes] if isinstance(data, bytes) else data


def _source(group: Sequence[FileRange], max_bytes: int) -> FileRange | bytes | ImageError:
    """The range that has all of a group, if there is something to read."""
    size_bytes = group[-1].first + group[-1].size_bytes - group[0].first
    if len(group) == 1 and size_bytes > max_bytes:
        return file_too_large(size_bytes, max_bytes)
    return replace(group[0], size_bytes=size_bytes) if size_bytes else b""


def _neighbours(parts: Sequence[FileRange], max_bytes: int) -> Iterator[list[FileRange]]:
    group: list[FileRange] = []
    for part in parts:
        if group and not (_follows(group, part) and max(part.size_bytes, group[-1].size_bytes) <= max_bytes):
            yield group
            group = []
        group.append(part)
    if group:
        yield group


def _follows(group: Sequence[FileRange], part: FileRange) -> bool:
    first, last = group[0], group[-1]
    gap = part.first - (last.first + last.size_bytes)
    is_near = (part.uri, part.version) == (first.uri, first.version) and 0 <= gap <= GAP_BYTES
    return is_near and part.first + part.size_bytes - first.first <= TOGETHER_BYTES
