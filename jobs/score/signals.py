"""SIGTERM, as a spot machine gets it before it goes, ends a run as Ctrl-C does: by an exception in the main thread."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_received = threading.Event()


class Terminated(KeyboardInterrupt):
    """The process was asked to end."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` when SIGTERM comes, until the block ends."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's affair
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
    """Whether SIGTERM came."""
    return _received.is_set()


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signal calls it
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what follows is short
    _received.set()
    raise Terminated
