"""How far a run is: one line that moves on a terminal, one line every 30 seconds in a log file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

LOG_EVERY_S: Final = 30.0
_MEASURE_AT_LEAST_S: Final = 1.0


class Progress:
    """Counts rows as their units are staged."""

    def __init__(self, total: int, done: int = 0) -> None:
        """Count towards `total` rows, of which `done` were staged by an earlier run."""
        self.total = total
        self.done = done
        self.errors = 0
        self._began: float | None = None
        self._last = 0.0
        self._first = 0
        self._logged = time.monotonic()
        # A descriptor of its own: Ray's start mutes standard error, but not this line.
        self._console = Console(file=os.fdopen(os.dup(sys.stderr.fileno()), "w"))
        self._live: Live | None = None

    @property
    def images_per_s(self) -> float | None:
        """Speed since the first unit was staged; None until that is a second ago.

        The first unit starts the clock: before it come Ray's start and the loading of the model.
        """
        if self._began is None or self._last - self._began < _MEASURE_AT_LEAST_S:
            return None
        return (self.done - self._first) / (self._last - self._began)

    @contextmanager
    def shown(self) -> Iterator[Progress]:
        """Show the line until the block ends."""
        try:
            if self._console.is_terminal:
                with Live(self._line(), console=self._console, refresh_per_second=4, transient=True) as self._live:
                    yield self
            else:
                yield self
        finally:
            self._live = None
            self._console.file.close()

    def add(self, rows: int, errors: int) -> None:
        """Rows that were staged, of which some are errors."""
        self.done += rows
        self.errors += errors
        self._last = time.monotonic()
        if self._began is None:
            self._began, self._first = self._last, self.done
        if self._live:
            self._live.update(self._line())
        elif self._last - self._logged >= LOG_EVERY_S:
            self._logged = self._last
            print(self._line(), file=sys.stderr, flush=True)

    def _line(self) -> Text:
        share = self.done / self.total if self.total else 1.0
        line = f"{self.done:,}/{self.total:,} images ({share:.0%})"
        if speed := self.images_per_s:
            line += f", {speed:,.1f} images/s, {format_seconds((self.total - self.done) / speed)} left"
        elif self._began is None:
            line += ", starting"
        return Text(line + (f", {self.errors:,} errors" if self.errors else ""))


def format_seconds(seconds: float) -> str:
    """A duration for people: 42 s, 3 min 20 s, 5 h 12 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"
