"""How long a device has worked, and how long it has waited for work. Knows of no device: it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter


@dataclass(frozen=True)
class DeviceSeconds:
    """What passed between two takings.

    Attributes:
        waited_s: without work, between two passes; None before the first taking, since start-up is not waiting.
        worked_s: in passes.
        passes: how many.
    """

    waited_s: float | None
    worked_s: float
    passes: int


class DeviceClock:
    """Measures passes that come one after the other, from whichever thread.

    Units of work may overlap: each takes, when it ends, what has passed since the last one did, so that their sum is
    the device's time whatever the order.
    """

    def __init__(self, now: Callable[[], float] = perf_counter) -> None:
        """Begin with the first pass."""
        self._now = now
        self._lock = threading.Lock()
        self._ended: float | None = None
        self._is_first = True
        self._waited = self._worked = 0.0
        self._passes = 0

    @contextmanager
    def working(self, passes: int = 1) -> Iterator[None]:
        """The device works until the block ends; no other pass may begin meanwhile."""
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
        """What has passed since the last taking."""
        with self._lock:
            taken = DeviceSeconds(None if self._is_first else self._waited, self._worked, self._passes)
            self._is_first = False
            self._waited = self._worked = 0.0
            self._passes = 0
        return taken
