"""The bookkeeping of one run: its id, events, record, clock and signals, as a context."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

from jobs.score.actor_starts import StartLog
from jobs.score.events import Events
from jobs.score.signals import terminable
from jobs.storage.place import Place
from jobs.store.run_record import RunRecord, new_run_id, now


class Run:
    """One run; in its context, SIGTERM raises an exception.

    Attributes:
        id: id of the run.
        started_at: time of its start.
        events: its events, for logs.
        seconds: wall time of each finished phase.
    """

    def __init__(self, log_format: str) -> None:
        """Start the clock."""
        self.id = new_run_id()
        self.events = Events(self.id, log_format)
        self.started_at = now()
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()
        self._contexts = ExitStack()

    def __enter__(self) -> Self:
        self._contexts.enter_context(self.events)
        self._contexts.enter_context(terminable())
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
            record.end("finished")
        except BaseException as error:
            record.end("interrupted" if isinstance(error, KeyboardInterrupt) else "stopped")
            stopped_by = error
            raise
        finally:
            self.end_phase("score")
            record.add_loads(StartLog(place, self.id).take_loads())
            record.write(place)
            self.events.run_ended(record, stopped_by)
