"""The receipts of a run's units: counted, shown, logged, and handed on to the commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from jobs.score.bottleneck import Pulse, UnitTimes
from jobs.score.breaker import Breaker
from jobs.score.commit import ShardCommitter
from jobs.score.events import Events
from jobs.score.progress import Progress
from jobs.store.run_record import RunRecord


class Receipts:
    """The receipts so far.

    Attributes:
        record: the record of the run, which counts them.
        errors: error type → rows.
        units: units, as (shard, unit), that are staged.
        pulse: tells the limit of the run.
        shown: shows its progress.
    """

    def __init__(self, committer: ShardCommitter, record: RunRecord, events: Events, breaker: Breaker) -> None:
        """Expect the units of a committer."""
        self.record, self.errors, self.pulse = record, Counter[str](), Pulse()
        self.units: set[tuple[int, int]] = set()
        self.shown = Progress(committer.rows_to_commit, record.staged_rows, self.pulse, events)
        self._committer, self._events, self._breaker = committer, events, breaker

    def take(self, receipts: Iterable[Mapping[str, Any]]) -> None:
        """Take receipts as they come, rows of schema `RECEIPT`.

        Raises:
            RunError: the source has gone away.
            StoreError: a commit has failed.
        """
        for receipt in receipts:
            self.errors.update(receipt["error_types"])
            if receipt["spent"]["actor"] is not None:
                self.pulse.add(UnitTimes.of(receipt["spent"]))
            self.shown.add(receipt["rows"], len(receipt["error_types"]))
            self.record.add(receipt)
            self.record.images_per_s = self.shown.images_per_s
            self.record.busy_share, self.record.bound = self.pulse.overall().for_record()
            self._events.unit_staged(receipt, self.shown.fields())
            self.units.add((receipt["shard"], receipt["unit"]))
            self._stage(self._breaker.admit(receipt))

    def end(self) -> None:
        """Hand on what was held back."""
        self._stage(self._breaker.rest())

    def _stage(self, units: Iterable[tuple[int, int]]) -> None:
        for shard, unit in units:
            self._committer.unit_staged(shard, unit)
