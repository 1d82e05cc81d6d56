"""The progress and bottleneck of a run: a moving line on a terminal, a line every 30 s in a log, or events.

A thread writes the log, so that lines come also when no unit is staged.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from jobs.score.bottleneck import Heartbeat, Pulse
from jobs.score.events import Events
from jobs.words import format_seconds

LOG_EVERY_S: Final = 30.0
_MEASURE_AT_LEAST_S: Final = 1.0
_JUDGE_EVERY_S: Final = 1.0


class Progress:
    """Counts rows as their units are staged."""

    def __init__(self, total: int, done: int, pulse: Pulse, events: Events) -> None:
        """Count towards `total` rows, of which `done` were staged by an earlier run."""
        self.total = total
        self.done = done
        self._pulse, self._events = pulse, events
        self.errors = 0
        self._began: float | None = None
        self._last = 0.0
        self._first = 0
        self._judged, self._heartbeat = 0.0, Heartbeat("starting")
        # A descriptor of its own: Ray's start mutes standard error, but not this line.
        self._console = Console(file=os.fdopen(os.dup(sys.stderr.fileno()), "w"))
        self._live: Live | None = None

    @property
    def images_per_s(self) -> float | None:
        """Speed since the first unit was staged; None within the first second after that.

        The clock starts with the first unit, so the start of Ray and the loading of the model do not count.
        """
        if self._began is None or self._last - self._began < _MEASURE_AT_LEAST_S:
            return None
        return (self.done - self._first) / (self._last - self._began)

    @contextmanager
    def shown(self) -> Iterator[Progress]:
        """Show the line until the block ends."""
        try:
            if self._events.is_quiet:
                yield self
            elif self._console.is_terminal and not self._events.is_json:
                with Live(self._line(), console=self._console, refresh_per_second=4, transient=True) as self._live:
                    yield self
            else:
                with self._logged_regularly():
                    yield self
        finally:
            self._live = None
            self._console.file.close()

    def add(self, rows: int, errors: int) -> None:
        """Add staged rows, `errors` of which are error rows."""
        self.done += rows
        self.errors += errors
        self._last = time.monotonic()
        if self._began is None:
            self._began, self._first = self._last, self.done
        if self._live:
            self._live.update(self._line())

    @contextmanager
    def _logged_regularly(self) -> Iterator[None]:
        ended = threading.Event()

        def log() -> None:
            while not ended.wait(LOG_EVERY_S):
                self._log()

        thread = threading.Thread(target=log, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _log(self) -> None:
        heartbeat, silent_s = self._pulse.last(), self._pulse.silent_s
        sentence = heartbeat.sentence(self._pulse.device)
        if silent_s is not None and silent_s >= LOG_EVERY_S:
            sentence += f"; no unit since {format_seconds(silent_s)}"
        if self._events.is_json:
            about = {name: value for name, value in asdict(heartbeat).items() if value is not None}
            silent = {} if silent_s is None else {"silent_s": round(silent_s, 1)}
            self._events.write("heartbeat", **about, **silent, **self.fields(), message=sentence)
        else:
            print(f"{self._line(words=sentence)}", file=sys.stderr, flush=True)

    def fields(self) -> dict[str, Any]:
        """The progress of the run, for an event."""
        speed = self.images_per_s
        return {"done": self.done, "total": self.total, "images_per_s": None if speed is None else round(speed, 3)}

    def _words(self) -> str:
        """The bottleneck, computed at most once a second, since hundreds of units may come in that time."""
        now = time.monotonic()
        if now - self._judged >= _JUDGE_EVERY_S:
            self._judged, self._heartbeat = now, self._pulse.last()
        return self._heartbeat.words(self._pulse.device)

    def _line(self, words: str | None = None) -> Text:
        share = self.done / self.total if self.total else 1.0
        line = f"{self.done:,}/{self.total:,} images ({share:.0%})"
        if speed := self.images_per_s:
            line += f", {speed:,.1f} images/s, {format_seconds((self.total - self.done) / speed)} left"
        line += f", {self.errors:,} errors" if self.errors else ""
        return Text(f"{line}, {words or self._words()}")
