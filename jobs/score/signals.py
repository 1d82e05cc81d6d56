"""SIGTERM, which a spot machine gets before it is taken away, ends a run like Ctrl-C: by an exception."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_received = threading.Event()


class Terminated(KeyboardInterrupt):
    """SIGTERM was received."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` when SIGTERM comes, until the block ends."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set signal handlers
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    listen()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def listen() -> None:
    """Take SIGTERM back from a library that has a handler of its own."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)


def was_terminated() -> bool:
    """Whether SIGTERM was received."""
    return _received.is_set()


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signal calls it
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the short clean-up
    _received.set()
    raise Terminated
