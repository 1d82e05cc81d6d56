"""Seconds a device has worked and waited for work. Knows nothing of devices: callers report each pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter


@dataclass(frozen=True)
class DeviceSeconds:
    """Time between two calls of `take`.

    Attributes:
        waited_s: between two passes, without work; None before the first `take`, since start-up is not waiting.
        worked_s: in forward passes.
        passes: number of passes.
    """

    waited_s: float | None
    worked_s: float
    passes: int


class DeviceClock:
    """Measures passes that run one after the other, from any thread.

    Units of work may overlap: each takes, when it ends, the time since the previous one ended, so that their sum is
    the device's time whatever the order.
    """

    def __init__(self, now: Callable[[], float] = perf_counter) -> None:
        """Start counting at the first pass."""
        self._now = now
        self._lock = threading.Lock()
        self._ended: float | None = None
        self._is_first = True
        self._waited = self._worked = 0.0
        self._passes = 0

    @contextmanager
    def working(self, passes: int = 1) -> Iterator[None]:
        """Count the block as work; no other pass may begin before it ends."""
        began = self._now()
        try:
            yield
        finally:
            ended = self._now()
            with self._lock:
                if self._ended is not None:
                    self._waited += began - self._ended
                self._worked += ended - began
                self._passes += passes
                self._ended = ended

    def take(self) -> DeviceSeconds:
        """Time since the last call."""
        with self._lock:
            taken = DeviceSeconds(None if self._is_first else self._waited, self._worked, self._passes)
            self._is_first = False
            self._waited = self._worked = 0.0
            self._passes = 0
        return taken
