"""The status of a store: its rows, counted, and its runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from jobs.store.counts import Counts
from jobs.store.doubles import DoubledId, doubled_id
from jobs.store.plan_progress import PlanProgress
from jobs.store.run_record import read_runs
from jobs.store.store import Store
from schemas.fingerprint import Fingerprint
from schemas.text_settings import TextSettings


@dataclass(frozen=True)
class StoreStatus:
    """The rows of a store, counted, and its runs.

    Attributes:
        out: folder or prefix of the store.
        fingerprint: fingerprint of all its scores.
        texts: which texts it has, if any.
        planned: rows of the scores table when the last plan is done.
        counts: rows of the tables now.
        staged_rows: rows that are scored but not committed yet.
        doubled: an id that is in the table twice; normally None.
        runs: the `run.json` of every run, oldest first.
    """

    out: str
    fingerprint: Fingerprint
    texts: TextSettings | None
    planned: int
    counts: Counts
    staged_rows: int
    doubled: DoubledId | None
    runs: list[dict[str, Any]]

    @property
    def remaining(self) -> int:
        """Planned rows that are not in the table; negative if the table has more rows than planned."""
        return self.planned - self.counts.rows

    @property
    def verdict(self) -> str:
        """One line that compares the planned rows with those of the table."""
        line = f"{self.planned:,} rows planned = {self.counts.ok:,} ok + {self.counts.failed:,} failed"
        if self.doubled is not None:
            return f"{line}; {self.doubled}: move one of these files away and run again"
        if self.remaining < 0:
            return f"{line}, {-self.remaining:,} more than planned: the next run counts and plans again"
        return f"{line} + {self.remaining:,} remaining; no id twice"

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "out": self.out,
            "fingerprint": asdict(self.fingerprint),
            "rows": {
                "planned": self.planned,
                "ok": self.counts.ok,
                "failed": self.counts.failed,
                "remaining": self.remaining,
                "staged": self.staged_rows,
            },
            "errors": dict(self.counts.errors),
            "warnings": dict(self.counts.warnings),
            "texts": self._texts_json(),
            "reconciled": self.remaining == 0 and self.doubled is None,
            "verdict": self.verdict,
            "runs": self.runs,
        }

    def _texts_json(self) -> dict[str, Any] | None:
        if self.texts is None:
            return None
        return {
            **asdict(self.texts),
            "described": self.counts.described,
            "errors": dict(self.counts.text_errors),
            "waiting": self.counts.without_texts,
        }


def store_status(out: str) -> StoreStatus:
    """Count the rows of a store.

    Raises:
        StoreError: there is none.
    """
    store = Store.open(out)
    files = store.table_files()
    counts = store.counts(files)
    progress = PlanProgress.current(store)
    planned, staged = counts.rows, 0
    if progress:
        plan, done, units = progress.plan, progress.committed(files), progress.staging.units()
        planned = plan.store_rows + plan.new_rows
        for shard in plan.shards:
            if shard.index not in done:
                staged += sum(plan.rows_of_unit(shard, unit) for unit in units[shard.index])
                staged -= progress.rows_of_part(shard, files)
    return StoreStatus(
        out=out,
        fingerprint=store.fingerprint,
        texts=store.texts,
        planned=planned,
        counts=counts,
        staged_rows=staged,
        doubled=doubled_id(store, files),
        runs=read_runs(store.place),
    )
