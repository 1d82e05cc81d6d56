from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import complete, open_store, plan_for, stage, write_manifest

from artimuse_actor.errors import ManifestError
from jobs.manifest.id_index import IdIndex, hash_strings
from jobs.plan.plan import Plan, ShardPlan, default_unit_rows, in_groups
from jobs.store.plan_file import current_plan
from jobs.store.plan_progress import PlanProgress, unit_rows_of


def _table(folder: Path) -> dict[str, float]:
    rows = pq.read_table(folder / "scores").to_pylist()
    assert len({row["image_id"] for row in rows}) == len(rows)
    return {row["image_id"]: row["score"] for row in rows}


def test_a_plan_cuts_rows_into_shards_and_units_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    ids = [f"{number:03}" for number in range(95)]
    store = open_store(tmp_path / "out")
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", ids), "p", unit_rows=7, shard_rows=40)
    assert [(shard.rows, shard.units) for shard in plan.shards] == [(40, 6), (40, 6), (15, 3)]
    planned = [
        row["image_id"]
        for shard in plan.shards
        for unit in range(shard.units)
        for row in unit_rows_of(store.place, plan, shard.index, unit).to_pylist()
    ]
    assert planned == ids
    assert current_plan(store.place) == plan


def test_rows_of_the_store_are_not_planned_again(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    source = write_manifest(tmp_path / "m.parquet", ["a", "b", "c"])
    complete(store, plan_for(store, source, "p1", unit_rows=2, shard_rows=2))
    more = write_manifest(tmp_path / "m.parquet", ["x", "b", "a", "y"])
    plan = plan_for(store, more, "p2")
    assert (plan.manifest_rows, plan.held_rows, plan.new_rows, plan.store_rows) == (4, 2, 2, 3)
    complete(store, plan)
    assert sorted(_table(tmp_path / "out")) == ["a", "b", "c", "x", "y"]
    assert not plan_for(store, more, "p3").shards


def test_a_changed_version_replaces_its_row_in_its_own_file(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    complete(
        store,
        plan_for(store, write_manifest(tmp_path / "m.parquet", ["a", "b", "c", "d"]), "p1", unit_rows=2, shard_rows=2),
        1.0,
    )
    before = store.table_files().scores_paths
    changed = write_manifest(tmp_path / "m.parquet", ["a", "b", "c", "d", "e"], ["1", "2", None, "2", "1"])
    plan = plan_for(store, changed, "p2")
    assert sorted((shard.rows, shard.replaces) for shard in plan.shards if shard.replaces) == [(1, f) for f in before]
    assert not PlanProgress(store, plan).committed()
    complete(store, plan, 2.0)
    assert _table(tmp_path / "out") == {"a": 1.0, "b": 2.0, "c": 1.0, "d": 2.0, "e": 2.0}
    assert PlanProgress(store, plan).committed() == {0, 1, 2}
    assert store.counts().rows == plan.store_rows + plan.new_rows


def test_a_doubled_id_is_refused_with_both_places_and_leaves_nothing_behind(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    (tmp_path / "m").mkdir()
    write_manifest(tmp_path / "m" / "0.parquet", ["a", "b"])
    write_manifest(tmp_path / "m" / "1.parquet", ["c", "b"])
    with pytest.raises(ManifestError, match=r"1.parquet, row 1: has the same `image_id` as .*0.parquet, row 1: '"):
        plan_for(store, str(tmp_path / "m"), "p")
    assert current_plan(store.place) is None
    assert not list(store.place.files("_runs/p"))


def test_a_manifest_without_rows_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": pa.array([], pa.string())}), tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="has no rows"):
        plan_for(open_store(tmp_path / "out"), str(tmp_path / "m.parquet"), "p")


def test_units_are_small_only_when_all_that_is_pending_is_little(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    ids = [f"{number:05}" for number in range(6_500)]
    complete(store, plan_for(store, write_manifest(tmp_path / "m.parquet", ids[:1]), "p1"))
    changed = plan_for(store, write_manifest(tmp_path / "m.parquet", ids, ["2"] * len(ids)), "p2")
    assert changed.unit_rows == 101


def test_what_an_abandoned_plan_staged_is_kept(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    plan = plan_for(
        store, write_manifest(tmp_path / "m.parquet", ["a", "b", "c", "d", "e"]), "p1", unit_rows=2, shard_rows=4
    )
    stage(store, plan, plan.shards[0], [1])
    PlanProgress(store, plan).retire()
    assert sorted(_table(tmp_path / "out")) == ["c", "d"]
    complete(store, plan_for(store, write_manifest(tmp_path / "m.parquet", ["a", "b", "c", "d", "e", "f"]), "p2"))
    assert sorted(_table(tmp_path / "out")) == ["a", "b", "c", "d", "e", "f"]


def test_an_abandoned_plan_that_is_asked_for_again_is_planned_anew(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    source = write_manifest(tmp_path / "m.parquet", ["a", "b", "c", "d", "e"])
    plan = plan_for(store, source, "p1", unit_rows=2)
    stage(store, plan, plan.shards[0], [0])
    # The next call has another manifest, which proves to be bad, and then the first command is given again.
    PlanProgress(store, plan).retire()
    assert current_plan(store.place) is None
    PlanProgress(store, plan).retire()  # killed in the middle, it is done once more
    again = plan_for(store, source, "p2", unit_rows=2)
    assert (again.held_rows, again.new_rows) == (2, 3)
    complete(store, again)
    assert sorted(_table(tmp_path / "out")) == ["a", "b", "c", "d", "e"]
    assert store.counts().rows == again.store_rows + again.new_rows


def test_of_an_abandoned_replacement_only_what_was_staged_is_new(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    ids = ["a", "b", "c", "d"]
    complete(store, plan_for(store, write_manifest(tmp_path / "m.parquet", ids), "p1"), 1.0)
    source = write_manifest(tmp_path / "m.parquet", ids, ["2"] * 4)
    plan = plan_for(store, source, "p2", unit_rows=2)
    stage(store, plan, plan.shards[0], [0], 2.0)
    PlanProgress(store, plan).retire()
    assert not PlanProgress(store, plan).committed()
    assert _table(tmp_path / "out") == {"a": 2.0, "b": 2.0, "c": 1.0, "d": 1.0}
    again = plan_for(store, source, "p3", unit_rows=2)
    assert [shard.rows for shard in again.shards] == [2]
    complete(store, again, 3.0)
    assert _table(tmp_path / "out") == {"a": 2.0, "b": 2.0, "c": 3.0, "d": 3.0}


def test_a_plan_is_void_when_a_scores_file_it_did_not_make_is_gone(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    complete(store, plan_for(store, write_manifest(tmp_path / "m.parquet", ["a"]), "p1"))
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", ["a", "b"]), "p2")
    assert PlanProgress(store, plan).can_continue()
    store.place.delete(store.table_files().scores_paths[0])
    assert not PlanProgress(store, plan).can_continue()
    assert plan_for(store, str(tmp_path / "m.parquet"), "p3").new_rows == 2


def test_rows_of_a_deleted_scores_file_are_pending_again(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", ["a", "b", "c"]), "p1", unit_rows=1, shard_rows=2)
    complete(store, plan)
    PlanProgress(store, plan).discard_work()
    assert PlanProgress(store, plan).can_continue()
    store.place.delete(store.table_files().scores_paths[0])
    assert not PlanProgress(store, plan).can_continue()
    assert plan_for(store, str(tmp_path / "m.parquet"), "p2").new_rows == 2


def test_small_jobs_get_small_units() -> None:
    assert [default_unit_rows(rows) for rows in (1, 1_000, 6_400, 65_536)] == [16, 16, 100, 200]


def test_a_unit_of_the_default_size_fits_into_one_ray_block() -> None:
    assert default_unit_rows(10**9) * 448 * 448 * 3 < 128 * 1024**2


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=4), max_size=60), st.lists(st.text(max_size=4), max_size=60))
def test_the_index_finds_what_a_dictionary_finds(held: list[str], asked: list[str]) -> None:
    index = IdIndex(hash_strings(pa.array(held, pa.string())))
    first = {text: place for place, text in reversed(list(enumerate(held)))}
    found = index.find(hash_strings(pa.array(asked, pa.string())))
    assert [held[place] if place >= 0 else None for place in found] == [
        text if text in first else None for text in asked
    ]
    double = index.first_double()
    assert (double is None) == (len(first) == len(held))
    if double is not None:
        assert double[0] < double[1]
        assert held[double[0]] == held[double[1]]


def test_ids_that_share_half_of_their_hash_are_told_apart() -> None:
    hashes = np.array([[7, 1], [7, 3], [7, 2], [9, 1]], dtype=np.uint64)
    index = IdIndex(hashes)
    assert index.find(hashes).tolist() == [0, 1, 2, 3]
    assert index.find(np.array([[7, 9], [8, 1]], dtype=np.uint64)).tolist() == [-1, -1]
    assert index.first_double() is None


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), max_size=6),
    st.integers(1, 12),
)
def test_groups_have_every_unit_once_and_a_small_one_last(shards: list[tuple[int, int]], size: int) -> None:
    unit_rows = 10
    plan = Plan(
        *("p", "s", "i", 0, 0, 0, 0, (), unit_rows, False),
        tuple(ShardPlan(index, (units - 1) * unit_rows + last, units) for index, (units, last) in enumerate(shards)),
    )
    units = [(shard.index, unit) for shard in plan.shards for unit in range(shard.units)]
    groups = list(in_groups(plan, units, size))
    assert [unit for group in groups for unit in group] == units
    for group in groups:
        assert 1 <= len(group) <= size
        assert all(plan.rows_of_unit(plan.shards[shard], unit) == unit_rows for shard, unit in group[:-1])
