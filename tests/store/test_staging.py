"""Scored units between the actor and the commit of their shard."""

from __future__ import annotations

from pathlib import Path

import pyarrow.dataset as ds
import pytest
from support.stores import complete, open_store, plan_for, stage, write_manifest

from jobs.score.commit import ShardCommitter
from jobs.store.layout import staged_path, staging_folder
from jobs.store.lock import run_lock
from jobs.store.plan_progress import PlanProgress


@pytest.mark.parametrize("damage", ["cut", "deleted"])
def test_damaged_staging_is_staged_again_and_nothing_else_is(tmp_path: Path, damage: str) -> None:
    store = open_store(tmp_path / "out")
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", list("abcdef")), "p", unit_rows=2)
    stage(store, plan, plan.shards[0], [0, 1, 2])
    path = tmp_path / "out" / staged_path(plan.plan_id, 0, 1)
    path.write_bytes(path.read_bytes()[:-20]) if damage == "cut" else path.unlink()
    assert PlanProgress(store, plan).staging.usable_units(()) == {0: {0, 2}}
    assert PlanProgress(store, plan).staging.units() == {0: {0, 2}}


def test_the_units_of_a_shard_are_deleted_with_its_commit(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", list("abcdef")), "p", unit_rows=1, shard_rows=3)
    progress = PlanProgress(store, plan)
    with run_lock(store.place, "p") as lock, ShardCommitter(progress, store.table_files(), lock) as committer:
        assert committer.units == [(shard, unit) for shard in range(2) for unit in range(3)]
        stage(store, plan, plan.shards[0], [0, 1, 2])
        stage(store, plan, plan.shards[1], [1])
        for unit in [(0, 0), (0, 1), (0, 2), (1, 1), (0, 2)]:  # a receipt may come twice
            committer.unit_staged(*unit)
    assert progress.staging.units() == {0: set(), 1: {1}}
    assert ds.dataset(tmp_path / "out" / "scores").to_table()["image_id"].to_pylist() == list("abc")


def test_units_that_a_killed_run_left_of_a_committed_shard_are_deleted_unread_by_the_next(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", list("abcd")), "p", unit_rows=1, shard_rows=2)
    complete(store, plan)
    for shard in plan.shards:
        (tmp_path / "out" / staged_path("p", shard.index, 1)).parent.mkdir()
        (tmp_path / "out" / staged_path("p", shard.index, 1)).write_bytes(b"not read")
    progress = PlanProgress(store, plan)
    assert progress.staging.usable_units(progress.committed()) == {0: set(), 1: set()}
    assert not any((tmp_path / "out" / staging_folder("p")).rglob("*.parquet"))


def test_rows_that_are_not_staged_are_left_when_time_is_up_and_those_of_committed_shards_are_not(
    tmp_path: Path,
) -> None:
    store = open_store(tmp_path / "out")
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", list("abcdef")), "p", unit_rows=1, shard_rows=3)
    with (
        run_lock(store.place, "p") as lock,
        ShardCommitter(PlanProgress(store, plan), store.table_files(), lock) as committer,
    ):
        stage(store, plan, plan.shards[0], [0, 1, 2])
        for unit in range(3):
            committer.unit_staged(0, unit)
        stage(store, plan, plan.shards[1], [0])  # staged, but its receipt did not come
        assert committer.commit_staged() == 2
    assert sorted(ds.dataset(tmp_path / "out" / "scores").to_table()["image_id"].to_pylist()) == list("abcd")
