"""The bottleneck of a run: its GPUs, CPU cores that decode, or bytes from the network.

An actor waits between two units only if none is ready. So the share of time in which actors are busy shows whether
loading keeps up; if it does not, the time that loaders spent on fetching and on decoding shows why. The number of cores
that would be enough follows from the seconds to load a unit, the seconds to score it, and the number of models.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self, TypeAlias

Bound: TypeAlias = Literal["starting", "gpu", "cpu", "network", "steps"]
"""The limit of a run: the model, on whatever device; cores that decode; bytes; or the handing over between steps."""

BUSY_SHARE: Final = 0.9  # if actors work for this share of their time or more, the model is the limit
WINDOW_S: Final = 60.0
WINDOW_UNITS: Final = 10  # the last ones count, however old they are
_MOST_UNITS: Final = 2000


@dataclass(frozen=True)
class UnitTimes:
    """Times of one unit, by step.

    Attributes:
        actor: node and process of the actor that scored it.
        fetched_bytes: bytes of its image files.
        fetch_s: seconds in which its loader waited for bytes.
        decode_s: seconds in which its loader decoded.
        wait_s: seconds in which its actor was idle before it; None for the first unit of an actor.
        model_s: seconds in which its actor worked on it.
    """

    actor: str
    fetched_bytes: int
    fetch_s: float
    decode_s: float
    wait_s: float | None
    model_s: float

    @classmethod
    def of(cls, spent: Mapping[str, Any]) -> Self:
        """The times in the column `spent` of a receipt."""
        return cls(**{name: spent[name] for name in cls.__dataclass_fields__})


@dataclass
class Totals:
    """Sums over units; an actor's first unit is left out, since start-up is not waiting."""

    actors: set[str] = field(default_factory=set)
    fetched_bytes: int = 0
    fetch_s: float = 0.0
    decode_s: float = 0.0
    wait_s: float = 0.0
    model_s: float = 0.0

    @classmethod
    def of(cls, units: Iterable[UnitTimes]) -> Self:
        """The sums over these units."""
        totals = cls()
        for unit in units:
            totals.add(unit)
        return totals

    def add(self, unit: UnitTimes) -> None:
        """Add one unit."""
        if unit.wait_s is None:
            return
        self.actors.add(unit.actor)
        self.fetched_bytes += unit.fetched_bytes
        self.fetch_s += unit.fetch_s
        self.decode_s += unit.decode_s
        self.wait_s += unit.wait_s
        self.model_s += unit.model_s


@dataclass(frozen=True)
class Heartbeat:
    """The limit of a run, with the numbers that show it.

    Attributes:
        bound: the limit.
        busy_share: share of their time in which actors work; None while starting.
        more_cores: additional cores that would keep the actors busy, if cores are the limit.
        bytes_per_s: speed of fetching, if the network is the limit.
        wanted_bytes_per_s: speed of fetching that would keep the actors busy.
    """

    bound: Bound
    busy_share: float | None = None
    more_cores: int | None = None
    bytes_per_s: float | None = None
    wanted_bytes_per_s: float | None = None

    def for_record(self) -> tuple[float | None, Bound | None]:
        """Busy share and bound as in `run.json`; both None while nothing is known yet."""
        share = None if self.busy_share is None else round(self.busy_share, 4)
        return share, None if self.bound == "starting" else self.bound

    def words(self, device: str) -> str:
        """The limit in a word or two, for a line of progress."""
        model = _name(device)
        return {
            "starting": "starting",
            "gpu": f"{model}-bound",
            "cpu": "starved for CPU",
            "network": "starved for network",
            "steps": f"{model} waits",
        }[self.bound]

    def sentence(self, device: str) -> str:
        """The limit and its numbers, for a log.

        GPU busy 62%; waiting for images: decoding (about 9 more CPU cores would do)
        """
        if self.busy_share is None:
            return "starting"
        busy = f"{_name(device)} busy {self.busy_share:.0%}"
        if self.bound == "cpu":
            advice = f" (about {self.more_cores:,} more CPU cores would do)" if self.more_cores else ""
            return f"{busy}; waiting for images: decoding{advice}"
        if self.bound == "network":
            assert self.bytes_per_s is not None
            advice = f" (about {_rate(self.wanted_bytes_per_s)} would do)" if self.wanted_bytes_per_s else ""
            return f"{busy}; waiting for images: fetching {_rate(self.bytes_per_s)}{advice}"
        if self.bound == "steps":
            return f"{busy}; waiting for units, though loading takes fewer cores than there are"
        return busy


def heartbeat(totals: Totals, cores: int) -> Heartbeat:
    """Find the limit of a run.

    Args:
        totals: sums over the units to judge by.
        cores: number of cores that load images.
    """
    actor_s = totals.wait_s + totals.model_s
    if not totals.actors or actor_s <= 0:
        return Heartbeat("starting")
    busy = totals.model_s / actor_s
    if busy >= BUSY_SHARE:
        return Heartbeat("gpu", busy)
    # Actors that never wait would score `speedup` times as many units in the same time.
    speedup = 1 / busy if busy > 0 else None
    load_s = totals.fetch_s + totals.decode_s
    wanted_cores = len(totals.actors) * load_s / totals.model_s if totals.model_s > 0 else math.inf
    if wanted_cores <= cores:
        return Heartbeat("steps", busy)
    if totals.decode_s >= totals.fetch_s:
        return Heartbeat("cpu", busy, math.ceil(wanted_cores - cores) if speedup else None)
    bytes_per_s = len(totals.actors) * totals.fetched_bytes / actor_s
    return Heartbeat("network", busy, None, bytes_per_s, bytes_per_s * speedup if speedup else None)


class Pulse:
    """Follows the units of a run, to tell its limit at any time.

    Attributes:
        device: device of the models: `cpu`, `cuda` or `mps`.
        cores: number of cores that load images.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Begin with no unit."""
        self.device, self.cores = "cpu", 1
        self._now = now
        self._lock = threading.Lock()  # one thread adds, another asks
        self._all = Totals()
        self._last: deque[tuple[float, UnitTimes]] = deque(maxlen=_MOST_UNITS)

    def add(self, unit: UnitTimes) -> None:
        """Add a unit that was staged."""
        now = self._now()
        with self._lock:
            self._all.add(unit)
            self._last.append((now, unit))
            while len(self._last) > WINDOW_UNITS and now - self._last[0][0] > WINDOW_S:
                self._last.popleft()

    @property
    def silent_s(self) -> float | None:
        """Seconds since the last unit was staged; None before the first."""
        with self._lock:
            return self._now() - self._last[-1][0] if self._last else None

    def last(self) -> Heartbeat:
        """The limit of the run now, from the last units."""
        with self._lock:
            totals = Totals.of(unit for _, unit in self._last)
        return heartbeat(totals, self.cores)

    def overall(self) -> Heartbeat:
        """The limit of the run so far, from all its units."""
        with self._lock:
            return heartbeat(self._all, self.cores)


def _name(device: str) -> str:
    return "model" if device == "cpu" else "GPU"


def _rate(bytes_per_s: float | None) -> str:
    return f"{(bytes_per_s or 0) / 1e6:,.1f} MB/s"
