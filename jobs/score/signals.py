"""SIGTERM, which a spot machine gets before it is taken away, ends a run like Ctrl-C: by an exception.

A time limit of the user's is a SIGTERM that the run sends itself.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_LOOK_EVERY_S: Final = 30.0
_received = threading.Event()
_time_is_up = threading.Event()


class Terminated(KeyboardInterrupt):
    """SIGTERM was received."""


class TimeIsUp(Terminated):
    """The time that the user gave the run is over."""


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


@contextmanager
def limited(ends_at: float | None) -> Iterator[None]:
    """Raise `TimeIsUp` at this time, in seconds since the epoch, if the block still runs then; within `terminable`."""
    _time_is_up.clear()
    if ends_at is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        # Not in one wait: clocks of waits stand still while a machine sleeps.
        while (left_s := ends_at - time.time()) > 0:
            if ended.wait(min(left_s, _LOOK_EVERY_S)):
                return
        _time_is_up.set()
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=watch, name="time limit", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def until_time_is_up() -> Iterator[None]:
    """Leave the block, without an exception, when the time of `limited` is over."""
    try:
        yield
    except KeyboardInterrupt:  # libraries may raise another one
        if not _time_is_up.is_set():
            raise


def listen() -> None:
    """Take SIGTERM back from a library that has a handler of its own."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)


def was_terminated() -> bool:
    """Whether SIGTERM was received."""
    return _received.is_set()


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signal calls it
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the short clean-up
    if _time_is_up.is_set():
        raise TimeIsUp
    _received.set()
    raise Terminated
