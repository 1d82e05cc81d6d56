"""The bookkeeping of one run: its id, events, record, clock and signals, as a context."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

from jobs.score.actor_starts import StartLog
from jobs.score.events import Events
from jobs.score.signals import TimeIsUp, limited, terminable
from jobs.storage.place import Place
from jobs.store.run_record import OUT_OF_TIME, RunRecord, new_run_id, now


class Run:
    """One run; in its context, SIGTERM and the end of its time raise an exception.

    Attributes:
        id: id of the run.
        started_at: time of its start.
        events: its events, for logs.
        seconds: wall time of each finished phase.
    """

    def __init__(self, log_format: str, *, quiet: bool = False, ends_at: float | None = None) -> None:
        """Start the clock; `ends_at` is the end of the run's time, in seconds since the epoch."""
        self.id = new_run_id()
        self.events = Events(self.id, log_format, quiet=quiet)
        self._ends_at = ends_at
        self.started_at = now()
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()
        self._contexts = ExitStack()

    def __enter__(self) -> Self:
        self._contexts.enter_context(self.events)
        self._contexts.enter_context(terminable())
        self._contexts.enter_context(limited(self._ends_at))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._contexts.__exit__(kind, error, traceback)

    def end_phase(self, name: str) -> None:
        """Note the wall time of the phase that ends now."""
        now = time.monotonic()
        self.seconds[name] = round(now - self._last, 3)
        self._last = now

    @contextmanager
    def recorded(self, record: RunRecord, place: Place) -> Iterator[None]:
        """Write the record to the store now, and again with the outcome when the block ends."""
        record.seconds = self.seconds
        record.write(place)
        stopped_by: BaseException | None = None
        try:
            yield
            record.end(OUT_OF_TIME if record.left_rows else "finished")
        except BaseException as error:
            record.end(_state_after(error))
            stopped_by = error
            raise
        finally:
            self.end_phase("score")
            record.add_loads(StartLog(place, self.id).take_loads())
            record.write(place)
            self.events.run_ended(record, stopped_by)


def _state_after(error: BaseException) -> str:
    if isinstance(error, TimeIsUp):
        return OUT_OF_TIME
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "stopped"
