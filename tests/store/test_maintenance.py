"""Mending, pruning and compaction of stores, and what a plan tries again; without Ray and without a model."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from support.score_job import run_artimuse
from support.stores import FINGERPRINT, complete, open_store, plan_for, stage, stage_with, write_manifest

from artimuse_actor.errors import StoreError, StoreLocked
from jobs.manifest.source import open_manifest
from jobs.plan.plan import Plan, plan_identity
from jobs.plan.stored_rows import RetryErrors
from jobs.storage.local_place import LocalPlace
from jobs.store.known_images import KnownRows
from jobs.store.layout import broken_path, known_path, plan_folder, rows_path, staged_path
from jobs.store.lock import run_lock
from jobs.store.maintenance import compact, heal
from jobs.store.plan_file import current_plan
from jobs.store.plan_progress import PlanProgress
from jobs.store.status import store_status
from jobs.store.store import Store
from jobs.store.text_request import WantedTexts

TEXTS = WantedTexts(["overall_gestalt"])


def _ids(folder: Path, table: str = "scores") -> list[str]:
    ids = ds.dataset(folder / table).to_table(columns=["image_id"])["image_id"].to_pylist()
    assert len(set(ids)) == len(ids)
    return sorted(ids)


def _cut(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def _fail(store: Store, plan: Plan, kind: str, *, retryable: bool) -> None:
    """Commit the one unit of a plan as errors."""
    stage_with(store, plan, status="error", error_type=kind, error_message="It is.", retryable=retryable, score=None)
    PlanProgress(store, plan).commit(plan.shards[0])


# What is tried again.


def test_failures_that_may_succeed_now_are_planned_again_and_others_are_not(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    for kind, retryable in (("fetch_failed", True), ("corrupt", False)):
        plan = plan_for(store, write_manifest(tmp_path / f"{kind}.parquet", [kind]), kind)
        _fail(store, plan, kind, retryable=retryable)
    source = write_manifest(tmp_path / "all.parquet", ["corrupt", "fetch_failed"])
    plan = plan_for(store, source, "again")
    assert [(shard.rows, shard.replaces) for shard in plan.shards] == [(1, "scores/fetch_failed-00000.parquet")]
    assert (plan.new_rows, plan.held_rows) == (0, 1)
    complete(store, plan)
    rows = {row["image_id"]: row for row in pq.read_table(tmp_path / "out" / "scores").to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == {"corrupt": "error", "fetch_failed": "ok"}
    assert rows["fetch_failed"]["error_type"] is rows["fetch_failed"]["retryable"] is None
    assert not store.wants_retry(store.table_files(), RetryErrors())
    assert store.wants_retry(store.table_files(), RetryErrors(("corrupt",)))


@pytest.mark.parametrize(
    ("retry", "planned"),
    [
        (RetryErrors(), ["changed", "fetch_failed", "new"]),
        (RetryErrors(alone=True), ["fetch_failed"]),
        (RetryErrors(("corrupt",), alone=True), ["corrupt"]),
        (RetryErrors(("corrupt", "fetch_failed"), alone=True), ["corrupt", "fetch_failed"]),
        (RetryErrors(("truncated",), alone=True), []),
    ],
    ids=str,
)
def test_retrying_errors_alone_leaves_new_and_changed_pictures_for_later(
    tmp_path: Path, retry: RetryErrors, planned: list[str]
) -> None:
    store = open_store(tmp_path / "out")
    for kind, retryable in (("fetch_failed", True), ("corrupt", False)):
        plan = plan_for(store, write_manifest(tmp_path / f"{kind}.parquet", [kind]), kind)
        _fail(store, plan, kind, retryable=retryable)
    complete(store, plan_for(store, write_manifest(tmp_path / "ok.parquet", ["ok", "changed"]), "ok"))
    source = write_manifest(
        tmp_path / "all.parquet", ["corrupt", "new", "fetch_failed", "ok", "changed"], ["1", "1", "1", "1", "2"]
    )
    plan = plan_for(store, source, "again", retry=retry)
    rows = [pq.read_table(path) for path in sorted((tmp_path / "out" / plan_folder(plan.plan_id) / "rows").glob("*"))]
    assert sorted(name for table in rows for name in table["image_id"].to_pylist()) == planned
    assert plan.held_rows == 4 + ("new" in planned) - len(planned)


def test_a_plan_for_errors_alone_is_another_plan() -> None:
    class Same:
        def identity(self) -> str:
            return "manifest"

    scopes = [
        RetryErrors(),
        RetryErrors(alone=True),
        RetryErrors(("a",), alone=True),
        RetryErrors(("a", "b"), alone=True),
    ]
    assert len({plan_identity(Same(), scope) for scope in scopes}) == 4  # type: ignore[arg-type]


def test_texts_whose_image_could_not_be_read_are_tried_again_with_the_others(tmp_path: Path) -> None:
    source = write_manifest(tmp_path / "m.parquet", ["a"])
    scored = open_store(tmp_path / "out")
    complete(scored, plan_for(scored, source, "p"))
    store = open_store(tmp_path / "out", TEXTS)
    _fail(store, plan_for(store, source, "q"), "fetch_failed", retryable=True)
    assert store.counts().text_errors == {"fetch_failed": 1}
    assert store.wants_retry(store.table_files(), RetryErrors())
    plan = plan_for(store, source, "r")
    assert [(shard.rows, shard.texts_only) for shard in plan.shards] == [(1, True)]
    complete(store, plan)
    assert (store.counts().described, store.counts().text_errors) == (1, {})


_SCOPES = (
    RetryErrors(),  # the image that no run has tried to describe
    RetryErrors(("too_large",), alone=True),
    RetryErrors(("truncated",), alone=True),
    RetryErrors(alone=True),  # those that are marked as retryable
)


def test_errors_of_the_texts_are_retried_alone_too(tmp_path: Path) -> None:
    source = write_manifest(tmp_path / "m.parquet", ["a", "b"])
    scored = open_store(tmp_path / "out")
    complete(scored, plan_for(scored, source, "p"))
    store = open_store(tmp_path / "out", TEXTS)
    _fail(store, plan_for(store, write_manifest(tmp_path / "a.parquet", ["a"]), "q"), "too_large", retryable=False)
    assert [plan_for(store, source, "r", retry=retry).rows for retry in _SCOPES] == [1, 1, 0, 0]


# What is mended.


def test_a_scores_file_that_was_cut_short_is_kept_aside_and_its_rows_are_pending_again(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out", TEXTS)
    source = write_manifest(tmp_path / "m.parquet", list("abcdef"))
    plan = plan_for(store, source, "p", shard_rows=2)
    complete(store, plan)
    PlanProgress(store, plan).discard_work()
    _cut(tmp_path / "out" / "scores" / "p-00001.parquet")
    _, (note,) = heal(store)
    assert "scores/p-00001.parquet: was cut short" in note
    assert (tmp_path / "out" / broken_path("scores/p-00001.parquet")).exists()
    assert _ids(tmp_path / "out") == _ids(tmp_path / "out", "texts") == list("abef")
    assert heal(store)[1] == []
    assert not PlanProgress(store, plan).can_continue()
    again = plan_for(store, source, "q")
    assert (again.new_rows, again.rows) == (2, 2)


@pytest.mark.parametrize("table", ["scores", "texts"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.9, 0.999])
def test_wherever_a_table_file_is_cut_every_row_comes_back_once(tmp_path: Path, table: str, share: float) -> None:
    store = open_store(tmp_path / "out", TEXTS)
    source = write_manifest(tmp_path / "m.parquet", list("abcdef"))
    complete(store, plan_for(store, source, "p", shard_rows=2))
    _cut(tmp_path / "out" / table / "p-00001.parquet", share)
    assert len(heal(store)[1]) == 1
    complete(store, plan_for(store, source, "q"))
    assert _ids(tmp_path / "out") == _ids(tmp_path / "out", "texts") == list("abcdef")


@pytest.mark.parametrize("damage", ["cut", "deleted"])
def test_a_damaged_plan_is_made_anew_and_what_was_staged_is_kept(tmp_path: Path, damage: str) -> None:
    store = open_store(tmp_path / "out")
    source = write_manifest(tmp_path / "m.parquet", list("abcdef"))
    plan = plan_for(store, source, "p", unit_rows=2)
    stage(store, plan, plan.shards[0], [0, 2])
    path = tmp_path / "out" / rows_path(plan.plan_id, 0)
    _cut(path) if damage == "cut" else path.unlink()
    assert not PlanProgress(store, plan).can_continue()
    PlanProgress(store, plan).retire()
    assert _ids(tmp_path / "out") == list("abef")
    assert plan_for(store, source, "q").rows == 2


def test_a_plan_file_cut_short_costs_no_committed_row(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    source = write_manifest(tmp_path / "m.parquet", list("abcd"))
    plan = plan_for(store, source, "p", shard_rows=2)
    stage(store, plan, plan.shards[0], [0])
    PlanProgress(store, plan).commit(plan.shards[0])
    _cut(tmp_path / "out" / "_plan.json")
    assert current_plan(store.place) is None
    complete(store, plan_for(store, source, "q"))
    assert _ids(tmp_path / "out") == list("abcd")


# What is copied.


def _known(store: Store, plan: Plan) -> KnownRows:
    store.write_known_images(plan, store.table_files())
    return store.known_rows(plan)


def _complete_with_digests(store: Store, plan: Plan, digests: Sequence[str | None]) -> None:
    stage_with(store, plan, sha256=list(digests), width=640)
    PlanProgress(store, plan).commit(plan.shards[0])


A, B, C = ("a" * 64, "b" * 64, "a" * 32 + "c" * 32)


def test_a_row_with_the_same_bytes_is_found_with_its_score_and_texts(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out", TEXTS)
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", ["x", "y"]), "p")
    _complete_with_digests(store, plan, [A, B])
    known = _known(store, plan_for(store, write_manifest(tmp_path / "m.parquet", ["x", "y", "z"]), "q"))
    found = known.find(B)
    assert found is not None
    assert (found["copied_from"], found["score"], found["width"]) == ("y", 50.0, 640)
    assert found["overall_gestalt"] == "overall_gestalt by p"
    assert (found["scored_by"], found["described_by"]) == ("p", "p")
    assert known.find("0" * 64) is known.find("f" * 64) is None
    assert known.find(C) is None  # half of the digest is not enough


@pytest.mark.parametrize("name", ["digests", "blocks"])
@pytest.mark.parametrize("damage", ["cut", "deleted", "empty"])
def test_of_digests_that_are_damaged_only_whole_ones_are_known(tmp_path: Path, name: str, damage: str) -> None:
    store = open_store(tmp_path / "out")
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", ["x", "y"]), "p")
    _complete_with_digests(store, plan, [A, B])
    known = _known(store, plan_for(store, write_manifest(tmp_path / "m.parquet", ["x", "y", "z"]), "q"))
    path = tmp_path / "out" / known_path("q", name)
    if damage == "deleted":
        path.unlink()
    else:
        _cut(path, 0.9 if damage == "cut" else 0.0)
    assert known.find(B) is None
    found = known.find(A)
    assert found is None if (name, damage) != ("digests", "cut") else found is not None and found["copied_from"] == "x"


def test_a_digest_of_a_file_that_there_is_not_is_of_no_image(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", ["x"]), "p")
    _complete_with_digests(store, plan, [A])
    known = _known(store, plan_for(store, write_manifest(tmp_path / "m.parquet", ["x", "y"]), "q"))
    path = tmp_path / "out" / known_path("q", "digests")
    path.write_bytes(path.read_bytes()[:16] + b"\x07\0\0\0")
    assert known.find(A) is None


@pytest.mark.parametrize("block_rows", [1, 2, 3, 64])
def test_digests_are_found_in_whatever_block_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_rows: int
) -> None:
    monkeypatch.setattr("jobs.store.known_images._BLOCK_ROWS", block_rows)
    store = open_store(tmp_path / f"out-{block_rows}")
    digests = [hashlib.sha256(bytes([number])).hexdigest() for number in range(9)]
    ids = [f"{number}.jpg" for number in range(9)]
    _complete_with_digests(store, plan_for(store, write_manifest(tmp_path / "m.parquet", ids), "p"), digests)
    known = _known(store, plan_for(store, write_manifest(tmp_path / "m.parquet", [*ids, "new.jpg"]), "q"))
    found = [known.find(digest) for digest in digests]
    assert [row["copied_from"] for row in found if row] == ids
    others = [hashlib.sha256(bytes([number])).hexdigest() for number in range(9, 99)]
    assert not any(map(known.find, ["0" * 64, "f" * 64, *others]))


def test_failed_rows_and_such_without_the_texts_that_are_wanted_are_not_copied(tmp_path: Path) -> None:
    source = write_manifest(tmp_path / "m.parquet", ["x"])
    scored = open_store(tmp_path / "out")
    _complete_with_digests(scored, plan_for(scored, source, "p"), [A])
    failing = plan_for(scored, write_manifest(tmp_path / "n.parquet", ["w"]), "q")
    stage_with(scored, failing, sha256=[B], status="error", error_type="corrupt", score=None)
    PlanProgress(scored, failing).commit(failing.shards[0])
    more = write_manifest(tmp_path / "m.parquet", ["x", "y"])
    assert _known(scored, plan_for(scored, more, "r")).find(A) is not None
    assert _known(scored, plan_for(scored, more, "s")).find(B) is None
    store = open_store(tmp_path / "out", TEXTS)
    assert _known(store, plan_for(store, more, "t")).find(A) is None


def test_a_row_that_was_replaced_since_is_not_copied(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    _complete_with_digests(store, plan_for(store, write_manifest(tmp_path / "m.parquet", ["x"]), "p"), [A])
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", ["x", "y"], ["2", "1"]), "q")
    known = _known(store, plan)
    (shard,) = (shard for shard in plan.shards if shard.replaces)
    stage(store, plan, shard, [0])
    PlanProgress(store, plan).commit(shard)
    assert known.find(A) is None


# What is compacted.


def _nightly(folder: Path, nights: int = 5) -> Store:
    store = open_store(folder / "out", TEXTS)
    for night in range(nights):
        ids = [f"{number:02}" for number in range(3 * (night + 1))]
        source = write_manifest(folder / "m.parquet", ids)
        plan = plan_for(store, source, f"p{night}")
        complete(store, plan)
        PlanProgress(store, plan).discard_work()
    return store


def test_many_small_shards_become_few_large_ones_with_the_same_rows(tmp_path: Path) -> None:
    _nightly(tmp_path)
    before = {table: ds.dataset(tmp_path / "out" / table).to_table() for table in ("scores", "texts")}
    done = compact([str(tmp_path / "out")], str(tmp_path / "new"), shard_rows=7)
    assert (done.rows, done.files_before, done.files_after) == (15, 5, 3)
    assert [len(pq.read_table(path)) for path in sorted((tmp_path / "new" / "scores").iterdir())] == [7, 7, 1]
    for table, rows in before.items():
        assert ds.dataset(tmp_path / "new" / table).to_table().sort_by("image_id").equals(rows.sort_by("image_id"))
        assert ds.dataset(tmp_path / "out" / table).to_table().equals(rows)
    for path in (tmp_path / "new" / "scores").iterdir():
        assert pq.read_table(path)["image_id"].to_pylist() == pq.read_table(
            tmp_path / "new" / "texts" / path.name
        )["image_id"].to_pylist()  # fmt: skip
    store = open_store(tmp_path / "new")
    assert store.fingerprint == Store.open(str(tmp_path / "out")).fingerprint
    assert store.texts == Store.open(str(tmp_path / "out")).texts
    assert plan_for(store, str(tmp_path / "m.parquet"), "next").rows == 0


def test_a_compaction_by_score_puts_the_best_rows_of_each_file_first_and_their_texts_with_them(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out", TEXTS)
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", list("abcdef")), "p")
    points = [50.0, 70.0, 10.0, None, 70.0, 90.0]
    stage_with(store, plan, score=points, status=["ok" if value else "error" for value in points])
    PlanProgress(store, plan).commit(plan.shards[0])
    compact([str(tmp_path / "out")], str(tmp_path / "new"), shard_rows=4, by_score=True)
    files = sorted((tmp_path / "new" / "scores").iterdir())
    assert [pq.read_table(path)["image_id"].to_pylist() for path in files] == [list("bacd"), list("fe")]
    assert [pq.read_table(path)["image_id"].to_pylist() for path in sorted((tmp_path / "new" / "texts").iterdir())] == [
        list("bac"),
        list("fe"),
    ]
    assert pq.ParquetFile(files[0]).metadata.row_group(0).column(0).has_offset_index
    again = open_store(tmp_path / "new", TEXTS)
    assert plan_for(again, str(tmp_path / "m.parquet"), "next").new_rows == 0


@pytest.mark.parametrize("writes", range(7))
def test_a_compaction_that_was_killed_is_no_store_and_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    _nightly(tmp_path)
    with _killed_after(writes, monkeypatch), pytest.raises(KeyboardInterrupt):
        compact([str(tmp_path / "out")], str(tmp_path / "new"), shard_rows=6)
    with pytest.raises(StoreError, match="is no store of scores"):
        Store.open(str(tmp_path / "new"))
    if writes > 1:
        with pytest.raises(StoreError, match="compact` into it was not finished"):
            open_store(tmp_path / "new")
    compact([str(tmp_path / "out")], str(tmp_path / "new"), shard_rows=8)
    assert _ids(tmp_path / "new") == _ids(tmp_path / "out")
    assert len(list((tmp_path / "new" / "scores").iterdir())) == 2


@contextmanager
def _killed_after(writes: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    write, create, swap = LocalPlace.write, LocalPlace.create, LocalPlace.swap
    left = [writes]

    def limited_write(place: LocalPlace, path: str, data: bytes) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(place, path, data)

    def limited_swap(place: LocalPlace, path: str, data: bytes, version: str | None) -> bool:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return swap(place, path, data, version)

    def limited_create(place: LocalPlace, path: str, data: bytes) -> bool:
        if not left[0]:
            raise KeyboardInterrupt
        return create(place, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalPlace, "write", limited_write)
        patch.setattr(LocalPlace, "swap", limited_swap)
        patch.setattr(LocalPlace, "create", limited_create)
        yield


def test_what_is_unfinished_in_a_store_is_said_when_it_is_compacted(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", list("abcdef")), "p", unit_rows=2, shard_rows=4)
    stage(store, plan, plan.shards[0], [0, 1])
    PlanProgress(store, plan).commit(plan.shards[0])
    said = f"{tmp_path}/out: 2 planned rows were not in its tables, so they are not here."
    assert said in run_artimuse("compact", tmp_path / "out", "--out", tmp_path / "new").stderr
    assert said in run_artimuse("merge", tmp_path / "out", "--into", tmp_path / "both").stderr
    complete(store, plan)
    assert run_artimuse("compact", tmp_path / "out", "--out", tmp_path / "newer").stderr == ""


def test_a_compaction_goes_neither_into_a_store_nor_beside_a_run(tmp_path: Path) -> None:
    store = _nightly(tmp_path, 2)
    with pytest.raises(StoreError, match="is a store already"):
        compact([str(tmp_path / "out")], str(tmp_path / "out"))
    with run_lock(store.place, "a-run"), pytest.raises(StoreLocked, match="a-run"):
        compact([str(tmp_path / "out")], str(tmp_path / "new"))


def test_a_store_without_rows_compacts_to_one_without(tmp_path: Path) -> None:
    open_store(tmp_path / "out")
    assert compact([str(tmp_path / "out")], str(tmp_path / "new")).files_after == 0
    assert Store.open(str(tmp_path / "new")).counts().rows == 0


# What was put there by hand.


def test_an_id_that_is_in_the_table_twice_stops_the_next_plan_and_names_both_files(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    source = write_manifest(tmp_path / "m.parquet", list("abcd"))
    complete(store, plan_for(store, source, "p", shard_rows=2))
    scores = tmp_path / "out" / "scores"
    shutil.copy(scores / "p-00001.parquet", scores / "copy.parquet")
    both = rf"id 'c' is in {scores}/copy\.parquet and in {scores}/p-00001\.parquet"
    with pytest.raises(StoreError, match=rf"{both}\. Move one of these files away and run again"):
        plan_for(store, source, "q")
    assert f"id 'c' is in {scores}/copy.parquet" in store_status(str(tmp_path / "out")).verdict
    (scores / "copy.parquet").unlink()
    assert plan_for(store, source, "q").rows == 0


def test_a_plan_of_another_checkpoint_and_units_of_another_version_are_not_taken_up(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", list("ab")), "p")
    stage(store, plan, plan.shards[0], [0])
    assert PlanProgress.current(store) is not None
    (tmp_path / "out" / "_store.json").unlink()  # with it the store forgets whose scores are staged
    other = open_store(tmp_path / "out", fingerprint=replace(FINGERPRINT, checkpoint_digest="d" * 64))
    assert PlanProgress.current(other) is None
    path = tmp_path / "out" / staged_path("p", 0, 0)
    pq.write_table(pq.read_table(path).drop_columns(["score_std"]), path)
    assert PlanProgress(store, plan).staging.usable_units(()) == {0: set()}
    assert not path.exists()


def test_the_work_of_abandoned_plans_is_deleted_by_the_next_run(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", list("ab")), "p")
    stage(store, plan, plan.shards[0], [0])
    plan_for(store, write_manifest(tmp_path / "m.parquet", list("abc")), "q")
    heal(store)
    assert [path.parent.parent.name for path in (tmp_path / "out" / "_runs").rglob("*.parquet")] == ["q"]


def test_a_store_below_its_own_pictures_or_manifest_is_left_out_of_them(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in "ab":
        (tmp_path / "photos" / f"{name}.jpg").write_bytes(name.encode())
    pq.write_table(pa.table({"image_id": ["a"], "uri": ["a.jpg"]}), tmp_path / "m.parquet")
    for number, source in enumerate((str(tmp_path / "photos"), str(tmp_path))):
        store = open_store(Path(source) / "out")
        rows = sum(batch.rows.num_rows for batch in open_manifest(source).batches())
        complete(store, plan_for(store, source, f"p{number}"))
        assert sum(batch.rows.num_rows for batch in open_manifest(source).batches()) == rows
