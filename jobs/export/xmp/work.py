"""Sidecars written many at a time, after they are noted in the journal, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from jobs.export.kind import Exported
from jobs.export.xmp.journal import Journal
from jobs.export.xmp.sidecar import Change, SidecarError
from jobs.storage.place import READ_THREADS
from jobs.words import by_count


@dataclass(frozen=True)
class Written(Exported):
    """The result, in numbers of sidecars.

    Attributes:
        unchanged: that were as they should be.
        kept: of all, those in which a person's rating stayed.
        skipped: reason → sidecars that were not written.
        diff: what changes, for people; only of a dry run.
        is_undo: whether an export was taken back.
    """

    unchanged: int = 0
    kept: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    diff: tuple[str, ...] = ()
    is_undo: bool = False
    dry_run: bool = False

    def lines(self) -> list[str]:
        """For people."""
        done = ("would be " if self.dry_run else "") + ("taken back" if self.is_undo else "written")
        line = f"{self.out}: {self.files:,} sidecars {done}, {self.unchanged:,} are as they should be"
        line += f"; {self.kept:,} have a person's rating, which stays" if self.kept else ""
        lines = [*self.notes, *self.diff, f"{line}."]
        return [*lines, f"  left out: {by_count(self.skipped)}."] if self.skipped else lines

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {**asdict(self), "diff": list(self.diff)}


class Work:
    """The sidecars so far.

    Attributes:
        journal: of what they were before.
        skipped: reason → how many were not written.
        settled: paths of those that are as they should be, now or before.
    """

    def __init__(self, journal: Journal, *, dry_run: bool = False, undo: bool = False) -> None:
        """Begin; a dry run writes nothing, and what takes back an export is not noted in the journal."""
        self.journal, self.skipped, self.settled = journal, Counter[str](), set[str]()
        self._dry_run, self._undo = dry_run, undo
        self._written = self._unchanged = self._kept = 0
        self._diff: list[str] = []

    def do(
        self,
        changes: Iterable[Callable[[], Change]],
        elsewhere: Callable[[str], Callable[[], Change] | None] = lambda _: None,
    ) -> None:
        """Make changes; what cannot be written is tried elsewhere."""
        with ThreadPoolExecutor(READ_THREADS) as pool:
            made = list(pool.map(_result, changes))
            for reason in made:
                if isinstance(reason, str):
                    self.skipped[reason] += 1
            found = [one for one in made if isinstance(one, Change)]
            self._kept += sum(one.keeps_rating for one in found)
            unchanged = [one for one in found if not one.is_one]
            self._unchanged += len(unchanged)
            self.settled.update(path for one in unchanged for path in (one.path, *one.came_from))
            todo = [one for one in found if one.is_one]
            if self._dry_run:
                self._diff += [line for one in todo for line in one.diff()]
                self._written += len(todo)
                return
            if not self._undo:
                self.journal.add([one.entry for one in todo])
            others = []
            for one, reason in zip(todo, pool.map(lambda one: _result(one.write), todo), strict=True):
                if not isinstance(reason, str):
                    self._written += 1
                    self.settled.update((one.path, *one.came_from))
                elif other := elsewhere(one.path):
                    self._kept -= one.keeps_rating
                    others.append(other)
                else:
                    self.skipped[reason] += 1
        if others:
            self.do(others)

    def result(self, out: str, rows: int, notes: tuple[str, ...] = ()) -> Written:
        """The numbers."""
        return Written(
            out=out,
            rows=rows,
            files=self._written,
            notes=notes,
            unchanged=self._unchanged,
            kept=self._kept,
            skipped=dict(self.skipped),
            diff=tuple(self._diff),
            is_undo=self._undo,
            dry_run=self._dry_run,
        )


def _result(function: Callable[[], Any]) -> Any:
    """What a function returns, or the words of its SidecarError."""
    try:
        return function()
    except SidecarError as error:
        return str(error)
