"""Room for what was taken and is not answered yet: bytes of bodies, and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from artimuse_actor.errors import RequestRefused
from jobs.serve.settings import Limits

BODIES: Final = 8
"""The largest bodies that fit into the server at a time; of smaller ones, more do."""
_RETRY_AFTER_S: Final = 1


class Admission:
    """Takes what there is room for, and refuses the rest at once: a client that waits can ask again.

    Attributes:
        images: pictures inside.
    """

    def __init__(self, limits: Limits) -> None:
        """Nothing is inside."""
        self._limits = limits
        self._body_bytes = 0
        self.images = 0

    @contextmanager
    def body(self, size_bytes: int | None) -> Iterator[None]:
        """Have room for a body of that size, or of any size.

        Raises:
            RequestRefused: it is too large, or there is no room now.
        """
        most = self._limits.body_bytes
        size_bytes = most if size_bytes is None else size_bytes
        if size_bytes > most:
            raise body_too_large(most)
        if self._body_bytes + size_bytes > BODIES * most:
            raise _busy(f"{self._body_bytes:,} bytes of other requests")
        self._body_bytes += size_bytes
        try:
            yield
        finally:
            self._body_bytes -= size_bytes

    @contextmanager
    def pictures(self, count: int) -> Iterator[None]:
        """Have room for so many pictures, which `Limits.queue` allows in itself.

        Raises:
            RequestRefused: there is no room now.
        """
        if self.images + count > self._limits.queue:
            raise _busy(f"{self.images:,} pictures")
        self.images += count
        try:
            yield
        finally:
            self.images -= count


def body_too_large(most: int) -> RequestRefused:
    """The error of a body above the limit."""
    return RequestRefused(413, "body_too_large", f"A body has at most {most:,} bytes here (--max-body). Send less.")


def _busy(what: str) -> RequestRefused:
    return RequestRefused(503, "busy", f"{what} are waiting already. Send it again.", _RETRY_AFTER_S)
