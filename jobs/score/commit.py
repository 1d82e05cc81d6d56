"""The commit of each shard when its last unit is staged, in threads beside the scoring.

A shard may take hours, so every few minutes what is staged of the unfinished ones is committed as a part.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

from jobs.plan.plan import ShardPlan
from jobs.store.layout import staged_path
from jobs.store.lock import RunLock
from jobs.store.plan_progress import PlanProgress
from jobs.store.table_files import TableFiles

PART_EVERY_S: Final = 180.0
_COMMIT_THREADS: Final = 2


class ShardCommitter:
    """Commits the shards of one plan as their units are staged; as a context, it ends when every commit has ended.

    Attributes:
        progress: the plan and its progress.
        store: the store of the shards.
        plan: the plan of the shards.
        units: units that were not staged at the beginning, as (shard, unit).
        rows_to_score: rows of the plan whose unit was not staged at the beginning.
        rows_to_commit: rows of the plan whose shard was not committed at the beginning.
    """

    def __init__(
        self,
        progress: PlanProgress,
        files: TableFiles,
        lock: RunLock,
        on_commit: Callable[[ShardPlan], None] | None = None,
    ) -> None:
        """Find units and shards that earlier runs left undone; `on_commit` gets each committed shard, in a thread."""
        self.progress, self._lock, self._on_commit = progress, lock, on_commit
        self.store, self.plan = progress.store, progress.plan
        committed = progress.committed(files)
        self._staged = progress.staging.usable_units(committed)
        self._pending = {shard.index: shard for shard in self.plan.shards if shard.index not in committed}
        self.units = [
            (shard.index, unit)
            for shard in self._pending.values()
            for unit in range(shard.units)
            if unit not in self._staged[shard.index]
        ]
        self.rows_to_commit = sum(shard.rows for shard in self._pending.values())
        self.rows_to_score = sum(self.plan.rows_of_unit(self.plan.shards[shard], unit) for shard, unit in self.units)
        self._pool = ThreadPoolExecutor(_COMMIT_THREADS, thread_name_prefix="commit")
        self._commits: list[Future[None]] = []
        self._parts: dict[int, frozenset[int]] = {}
        self._last_parts_s = time.monotonic()
        self._whole: set[int] = set()
        self._writing: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)

    def __enter__(self) -> Self:
        for shard in self._pending:
            self._commit_if_whole(shard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # After an interrupt, only commits that have begun are finished; the next run makes the others.
        self._pool.shutdown(wait=True, cancel_futures=isinstance(error, KeyboardInterrupt))
        if error is None:
            self._raise_failures()

    def unit_staged(self, shard: int, unit: int) -> None:
        """Note that a unit is staged.

        Raises:
            StoreError: an earlier commit has failed.
        """
        if unit not in self._staged[shard]:
            self._staged[shard].add(unit)
            self._commit_if_whole(shard)
        if time.monotonic() - self._last_parts_s >= PART_EVERY_S:
            self._commit_parts()
        self._raise_failures()

    def commit_staged(self) -> int:
        """Commit what is staged so far, noted by `unit_staged` or not; returns the rows that are not staged."""
        staged = self.progress.staging.units()
        for shard, planned in self._pending.items():
            if len(self._staged[shard]) < planned.units:  # otherwise it is being committed
                self._staged[shard] = staged[shard]
                self._commit_if_whole(shard)
        self._commit_parts()
        return sum(
            self.plan.rows_of_unit(self.plan.shards[shard], unit)
            for shard, unit in self.units
            if unit not in self._staged[shard]
        )

    def unstage(self, units: Iterable[tuple[int, int]]) -> None:
        """Delete staged units that were not noted by `unit_staged`: they are to be scored again."""
        for shard, unit in units:
            self.store.place.delete(staged_path(self.plan.plan_id, shard, unit))

    def _commit_if_whole(self, shard: int) -> None:
        planned = self._pending[shard]
        if len(self._staged[shard]) == planned.units:
            self._commits.append(self._pool.submit(self._commit, planned))

    def _commit_parts(self) -> None:
        """Commit what is newly staged of the unfinished shards."""
        for shard in self._pending.values():
            units = frozenset(self._staged[shard.index])
            if units and len(units) < shard.units and units != self._parts.get(shard.index):
                self._parts[shard.index] = units
                self._commits.append(self._pool.submit(self._commit_part, shard, units))
        self._last_parts_s = time.monotonic()

    def _commit(self, shard: ShardPlan) -> None:
        with self._writing[shard.index]:
            self._lock.check()
            self.progress.commit(shard)
            self._whole.add(shard.index)
        if self._on_commit:
            self._on_commit(shard)

    def _commit_part(self, shard: ShardPlan, units: frozenset[int]) -> None:
        with self._writing[shard.index]:
            if shard.index not in self._whole:
                self.progress.commit_part(shard, units)

    def _raise_failures(self) -> None:
        """Raise the error of a commit that has failed; those that have ended are forgotten."""
        ended: list[Future[None]] = []
        running: list[Future[None]] = []
        for commit in self._commits:
            (ended if commit.done() else running).append(commit)
        self._commits = running
        for commit in ended:
            commit.result()
