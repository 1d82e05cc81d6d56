"""A limit on the bytes of fetched files that wait to be used, and the reading of a body within it.

Many files are fetched ahead, and each may be large. A file says how large it is when it begins to arrive; if there is
no room then, it is dropped (the connection closed, no bytes kept) and fetched again when there is. No fetch keeps bytes
while it waits for room, and the file that is used next always has room: so there is no deadlock.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Final

from artimuse_actor.errors import file_too_large
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.fetch.retry import TryAgain

CHUNK_BYTES: Final = 1 << 20

Reserve = Callable[[int], None]
"""Called with the size of a file in bytes, as far as known; raises NoRoom."""


class NoRoom(Exception):  # noqa: N818 (asks the fetch to wait, and is seen by nobody else)
    """There is no room for a file now.

    Attributes:
        size_bytes: what it needs.
    """

    def __init__(self, size_bytes: int) -> None:
        """Say how much room is needed."""
        super().__init__(size_bytes)
        self.size_bytes = size_bytes


class ByteBudget:
    """The bytes that the files of one `fetch_many` take; files are known by their place in the order of use."""

    def __init__(self, limit_bytes: int) -> None:
        """Start with the whole budget free."""
        self._limit_bytes = limit_bytes
        self._held: dict[int, int] = {}
        self._next = -1
        self._lock = threading.Lock()  # local files are read in threads
        self._freed = asyncio.Event()

    def reserve(self, place: int, size_bytes: int) -> None:
        """Reserve bytes for a file; raises NoRoom if the others leave too few, unless the file is used next."""
        with self._lock:
            others = sum(size for other, size in self._held.items() if other != place)
            if others + size_bytes > self._limit_bytes and place != self._next:
                raise NoRoom(size_bytes)
            self._held[place] = size_bytes

    async def wait(self, place: int, size_bytes: int) -> None:
        """Reserve as soon as there is room."""
        while True:
            self._freed.clear()
            try:
                return self.reserve(place, size_bytes)
            except NoRoom:
                await self._freed.wait()

    def advance(self) -> None:
        """Move on to the next file; those before it have been used. Called on the event loop."""
        with self._lock:
            self._next += 1
            self._held.pop(self._next - 1, None)
        self._freed.set()


async def read_body(
    read: Callable[[int], Awaitable[bytes]], length: int | None, options: FetchOptions, reserve: Reserve
) -> bytes:
    """The body of an answer, in chunks, up to a limit of size, and not below one of speed.

    Args:
        read: the next bytes, at most so many; none at the end. Notices itself when the body is cut short.
        length: what the answer says of it, in bytes, if it does.
        options: see `FetchOptions`.
        reserve: see `Reserve`.

    Raises:
        ImageError: `too_large`.
        TryAgain: it drips.
    """
    max_bytes, clock = options.max_bytes, asyncio.get_running_loop().time
    began_s = clock()
    if length is not None and length > max_bytes:
        raise file_too_large(length, max_bytes)
    reserved = length or 0
    reserve(reserved)
    data = bytearray()
    while chunk := await read(CHUNK_BYTES):
        data += chunk
        if len(data) > max_bytes:
            raise file_too_large(len(data), max_bytes)
        if len(data) > reserved:  # doubled, so that a body of unknown length is dropped a few times at most
            reserved = 2 * len(data)
            reserve(reserved)
        spent_s = clock() - began_s
        if spent_s > options.read_timeout_s and len(data) < spent_s * options.min_bytes_per_s:
            raise TryAgain(f"The server sends {len(data) / spent_s:.0f} bytes/s", is_slow=True)
    reserve(len(data))
    return bytes(data)
