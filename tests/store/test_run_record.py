"""The record of a run."""

from __future__ import annotations

import time

from jobs.store.run_record import new_run_id


def test_the_ids_of_runs_that_start_in_the_same_second_sort_by_time() -> None:
    ids: list[str] = []
    for _ in range(30):
        ids.append(new_run_id())
        time.sleep(0.001)
    assert ids == sorted(set(ids))
