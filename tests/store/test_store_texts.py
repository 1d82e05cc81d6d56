"""Texts beside scores: what is planned, committed, found again and cleaned up; without Ray and without a model."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.stores import complete, open_store, plan_for, stage, stage_with, write_manifest

from artimuse_actor.errors import StoreMismatch, UsageError
from jobs.storage.local_place import LocalPlace
from jobs.store.counts import Counts
from jobs.store.maintenance import compact, heal
from jobs.store.plan_progress import PlanProgress
from jobs.store.store import Store
from jobs.store.text_request import WantedTexts
from schemas import scores, texts, units
from schemas.text_settings import RESERVED_COLUMNS, TextSettings
from schemas.units import staged_unit

TWO = WantedTexts(["Composition & Design", "overall_gestalt"], max_new_tokens=20)
COLUMN = "overall_gestalt"


def _texts(folder: Path) -> dict[str, str]:
    """image_id → one of its texts."""
    rows = pq.read_table(folder / "texts").to_pylist()
    assert len({row["image_id"] for row in rows}) == len(rows)
    return {row["image_id"]: row[COLUMN] for row in rows}


def _names(folder: Path, table: str) -> list[str]:
    return sorted(path.name for path in (folder / table).glob("*"))


def test_a_shard_has_scores_and_texts_in_files_of_one_name(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out", TWO)
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", list("abcde")), "p", unit_rows=2, shard_rows=4)
    complete(store, plan)
    assert _names(tmp_path / "out", "texts") == _names(tmp_path / "out", "scores") == [
        "p-00000.parquet", "p-00001.parquet"
    ]  # fmt: skip
    assert _texts(tmp_path / "out") == dict.fromkeys("abcde", f"{COLUMN} by p")
    file = pq.read_schema(tmp_path / "out" / "texts" / "p-00000.parquet")
    assert file.metadata[texts.MAX_NEW_TOKENS_KEY] == b"20"
    assert file.metadata[b"schema_version"] == texts.SCHEMA_VERSION.encode()
    assert json.loads(file.metadata[scores.FINGERPRINT_KEY])["checkpoint"] == "ArtiMuse"
    assert store.counts().described == 5
    assert store.counts().without_texts == 0


def test_scores_and_texts_of_a_copy_name_the_runs_that_made_them(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out", TWO)
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", ["a", "copy"]), "p")
    stage_with(store, plan, run_id=["p", "scores"], copied_from=[None, "old"], described_by=[None, "texts"])
    PlanProgress(store, plan).commit(plan.shards[0])
    for table, makers in (("scores", ["p", "scores"]), ("texts", ["p", "texts"])):
        rows = pq.read_table(tmp_path / "out" / table)
        assert (rows["image_id"].to_pylist(), rows["run_id"].to_pylist()) == (["a", "copy"], makers)
        assert "described_by" not in rows.column_names


def test_a_run_killed_between_texts_and_scores_leaves_no_texts_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "out", TWO)
    source = write_manifest(tmp_path / "m.parquet", list("abc"))
    plan = plan_for(store, source, "p")
    stage(store, plan, plan.shards[0], [0])
    swap = LocalPlace.swap

    def killed(place: LocalPlace, path: str, data: bytes, version: str | None) -> bool:
        if path.startswith("scores/"):
            raise KeyboardInterrupt
        return swap(place, path, data, version)

    monkeypatch.setattr(LocalPlace, "swap", killed)
    with pytest.raises(KeyboardInterrupt):
        PlanProgress(store, plan).commit(plan.shards[0])
    monkeypatch.undo()
    assert _names(tmp_path / "out", "texts") == ["p-00000.parquet"]
    assert PlanProgress(store, plan).committed() == set()
    assert store.counts().rows == store.counts().described == 0
    assert heal(store)[1] == []
    assert _names(tmp_path / "out", "texts") == []
    # The plan goes on as if the commit had never begun; another one finds nothing but what is staged.
    assert PlanProgress(store, plan).can_continue()
    PlanProgress(store, plan).retire()
    assert _names(tmp_path / "out", "texts") == _names(tmp_path / "out", "scores") == ["p-00000.parquet"]
    assert plan_for(store, source, "q").rows == 0


def test_texts_that_are_ahead_of_their_scores_are_neither_counted_nor_merged(tmp_path: Path) -> None:
    def merged(*stores: str) -> list[list[str]]:
        new = tmp_path / "+".join(stores) / "new"
        compact([str(tmp_path / name) for name in stores], str(new))
        return [pq.read_table(new / table)["image_id"].to_pylist() for table in ("scores", "texts")]

    store, other = open_store(tmp_path / "out", TWO), open_store(tmp_path / "other", TWO)
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", list("abc")), "p", unit_rows=1)
    stage(store, plan, plan.shards[0], [0, 1, 2])
    progress = PlanProgress(store, plan)
    progress.commit_part(plan.shards[0], [0, 1])
    (scores,) = store.table_files().scores_paths
    part = store.place.read(scores)
    progress.commit(plan.shards[0])
    store.place.write(scores, part)  # as if the run had died before it
    assert store.counts() == Counts(ok=2, described=2)
    complete(other, plan_for(other, write_manifest(tmp_path / "other.parquet", ["c"]), "p"))
    retried, ids = open_store(tmp_path / "retried", TWO), write_manifest(tmp_path / "r.parquet", ["a", "b"])
    plan = plan_for(retried, ids, "p")
    stage_with(retried, plan, status=["ok", "error"], error_type=[None, "missing"], retryable=[None, True])
    PlanProgress(retried, plan).commit(plan.shards[0])
    (path,) = retried.table_files().scores_paths
    failed = retried.place.read(path)
    complete(retried, plan_for(retried, ids, "q"))
    retried.place.write(path, failed)  # likewise
    assert retried.counts() == Counts(ok=1, errors=Counter(missing=1), described=1)
    assert merged("retried") == [["a", "b"], ["a"]]
    assert merged("out") == [["a", "b"]] * 2
    assert merged("out", "other") == [["a", "b", "c"]] * 2


def test_texts_that_are_asked_for_later_leave_the_scores_files_as_they_are(tmp_path: Path) -> None:
    source = write_manifest(tmp_path / "m.parquet", list("abcde"))
    scored = open_store(tmp_path / "out")
    complete(scored, plan_for(scored, source, "p", shard_rows=3))
    before = {path: path.read_bytes() for path in (tmp_path / "out" / "scores").iterdir()}
    store = open_store(tmp_path / "out", TWO)
    plan = plan_for(store, source, "q", unit_rows=2)
    assert [(shard.rows, shard.texts_only) for shard in plan.shards] == [(3, True), (2, True)]
    assert (plan.new_rows, plan.held_rows) == (0, 0)
    stage(store, plan, plan.shards[0], [0, 1])
    PlanProgress(store, plan).commit(plan.shards[0])
    assert PlanProgress(store, plan).committed() == {0}
    assert store.counts().without_texts == 2
    stage(store, plan, plan.shards[1], [0])
    PlanProgress(store, plan).commit(plan.shards[1])
    assert _texts(tmp_path / "out") == dict.fromkeys("abcde", f"{COLUMN} by q")
    assert before == {path: path.read_bytes() for path in (tmp_path / "out" / "scores").iterdir()}
    assert plan_for(store, source, "r").rows == 0


def test_a_shard_may_hold_changed_rows_and_rows_that_want_texts_only(tmp_path: Path) -> None:
    scored = open_store(tmp_path / "out")
    complete(scored, plan_for(scored, write_manifest(tmp_path / "m.parquet", list("abc")), "p"), score=10.0)
    store = open_store(tmp_path / "out", TWO)
    source = write_manifest(tmp_path / "m.parquet", list("abcd"), ["1", "2", "1", "1"])
    plan = plan_for(store, source, "q")
    assert sorted((shard.rows, shard.texts_only) for shard in plan.shards) == [(1, False), (3, False)]
    complete(store, plan, score=90.0)
    assert PlanProgress(store, plan).committed() == {0, 1}
    rows = {row["image_id"]: row["score"] for row in pq.read_table(tmp_path / "out" / "scores").to_pylist()}
    assert rows == {"a": 10.0, "b": 90.0, "c": 10.0, "d": 90.0}
    assert _texts(tmp_path / "out") == dict.fromkeys("abcd", f"{COLUMN} by q")


def test_a_changed_picture_gets_new_texts_in_its_place(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out", TWO)
    complete(store, plan_for(store, write_manifest(tmp_path / "m.parquet", list("abc")), "p"))
    source = write_manifest(tmp_path / "m.parquet", list("abc"), ["1", "2", "1"])
    plan = plan_for(store, source, "q")
    # Killed before the commit, the old texts stand; an abandoned plan commits what is staged.
    stage(store, plan, plan.shards[0], [0])
    assert PlanProgress(store, plan).committed() == set()
    PlanProgress(store, plan).commit(plan.shards[0])
    assert PlanProgress(store, plan).committed() == {0}
    assert _texts(tmp_path / "out") == {"a": f"{COLUMN} by p", "b": f"{COLUMN} by q", "c": f"{COLUMN} by p"}


def test_a_changed_picture_that_cannot_be_read_loses_its_old_texts(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out", TWO)
    complete(store, plan_for(store, write_manifest(tmp_path / "m.parquet", list("ab")), "p"))
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", list("ab"), ["1", "2"]), "q")
    _stage_error(store, plan, "missing")
    PlanProgress(store, plan).commit(plan.shards[0])
    assert list(_texts(tmp_path / "out")) == ["a"]
    assert (store.counts().ok, store.counts().described, store.counts().without_texts) == (1, 1, 0)


def test_an_image_that_is_gone_when_its_texts_are_made_keeps_its_score(tmp_path: Path) -> None:
    source = write_manifest(tmp_path / "m.parquet", list("a"))
    scored = open_store(tmp_path / "out")
    complete(scored, plan_for(scored, source, "p"), score=7.0)
    store = open_store(tmp_path / "out", TWO)
    plan = plan_for(store, source, "q")
    _stage_error(store, plan, "missing")
    PlanProgress(store, plan).commit(plan.shards[0])
    counts = store.counts()
    assert (counts.ok, counts.failed, counts.described) == (1, 0, 0)
    assert counts.text_errors == {"missing": 1}
    (row,) = pq.read_table(tmp_path / "out" / "texts").to_pylist()
    assert (row["status"], row["error_type"], row[COLUMN]) == ("error", "missing", None)
    assert plan_for(store, source, "r").rows == 0


def test_failed_rows_want_no_texts(tmp_path: Path) -> None:
    source = write_manifest(tmp_path / "m.parquet", list("ab"))
    scored = open_store(tmp_path / "out")
    plan = plan_for(scored, source, "p")
    _stage_error(scored, plan, "truncated")
    PlanProgress(scored, plan).commit(plan.shards[0])
    assert plan_for(open_store(tmp_path / "out", TWO), source, "q").rows == 0


def test_rows_of_a_deleted_texts_file_want_texts_again_and_no_scores(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out", TWO)
    source = write_manifest(tmp_path / "m.parquet", list("abcd"))
    plan = plan_for(store, source, "p", shard_rows=2)
    complete(store, plan)
    PlanProgress(store, plan).discard_work()
    assert PlanProgress(store, plan).can_continue()
    (tmp_path / "out" / "texts" / "p-00001.parquet").unlink()
    assert not PlanProgress(store, plan).can_continue()
    again = plan_for(store, source, "q")
    assert [(shard.rows, shard.texts_only, shard.replaces) for shard in again.shards] == [
        (2, True, "scores/p-00001.parquet")
    ]


def test_of_a_deleted_scores_file_the_texts_go_too(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out", TWO)
    source = write_manifest(tmp_path / "m.parquet", list("abcd"))
    complete(store, plan_for(store, source, "p", shard_rows=2))
    (tmp_path / "out" / "scores" / "p-00000.parquet").unlink()
    assert heal(store)[1] == []
    assert sorted(_texts(tmp_path / "out")) == ["c", "d"]
    assert plan_for(store, source, "q").new_rows == 2


def test_a_plan_without_texts_is_not_continued_once_texts_are_wanted(tmp_path: Path) -> None:
    source = write_manifest(tmp_path / "m.parquet", list("abcd"))
    scored = open_store(tmp_path / "out")
    plan = plan_for(scored, source, "p", unit_rows=1)
    stage(scored, plan, plan.shards[0], [1, 2])
    store = open_store(tmp_path / "out", TWO)
    assert PlanProgress(scored, plan).can_continue()
    assert not PlanProgress(store, plan).can_continue()
    PlanProgress(store, plan).retire()
    again = plan_for(store, source, "q")
    assert sorted((shard.rows, shard.texts_only) for shard in again.shards) == [(2, False), (2, True)]


def test_a_store_keeps_its_texts_settings(tmp_path: Path) -> None:
    settings = TextSettings(("Composition & Design", "Overall Gestalt"), 20)
    assert open_store(tmp_path / "out", TWO).texts == settings
    assert open_store(tmp_path / "out").texts == settings
    assert open_store(tmp_path / "out", WantedTexts()).texts == settings
    assert Store.open(str(tmp_path / "out")).texts == settings
    with pytest.raises(
        StoreMismatch, match=r"holds texts of at most 20 tokens; this run would add texts of at most 30"
    ):
        open_store(tmp_path / "out", WantedTexts(max_new_tokens=30))
    with pytest.raises(StoreMismatch, match=r"on Composition & Design, Overall Gestalt; .* on Overall Gestalt\."):
        open_store(tmp_path / "out", WantedTexts(["Overall Gestalt"]))


@pytest.mark.parametrize("limit", [0, -1, 8193])
def test_a_limit_out_of_range_is_refused_before_anything_is_written(tmp_path: Path, limit: int) -> None:
    with pytest.raises(UsageError, match="--max-new-tokens takes a whole number from 1 to 8192"):
        open_store(tmp_path / "out", WantedTexts(max_new_tokens=limit))
    assert not (tmp_path / "out").exists()


def test_a_store_has_a_name_that_can_be_written_down(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no name for a store, since it is not UTF-8"):
        open_store(tmp_path / os.fsdecode(b"o_\xff"))
    assert not list(tmp_path.iterdir())


def test_no_column_of_a_table_can_be_taken_by_a_question() -> None:
    settings = TextSettings(("Composition & Design",), 1)
    names = {field.name for schema in (texts.texts_schema(settings), staged_unit(scores.scores_schema([]), settings))
             for field in schema} - set(settings.all_columns)  # fmt: skip
    assert names | set(units.loaded_unit([]).names) | {"scored_at"} == RESERVED_COLUMNS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x00\x01\x17\x1b[31m\x7f\x85\u2028",
        "<script>alert(1)</script>",
        '"><img onerror=x>',
        "\u202eabc\u202c",
        "a" * 10**6,
    ],
)
def test_any_text_survives_parquet_and_json(tmp_path: Path, text: str) -> None:
    store = open_store(tmp_path / "out", WantedTexts(["Overall Gestalt"]))
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", list("a")), "p")
    stage_with(store, plan, **{COLUMN: text})
    PlanProgress(store, plan).commit(plan.shards[0])
    assert _texts(tmp_path / "out") == {"a": text}
    assert json.loads(json.dumps(_texts(tmp_path / "out"))) == {"a": text}


def _stage_error(store: Store, plan: Any, kind: str) -> None:
    stage_with(store, plan, status="error", error_type=kind, error_message="It is.", retryable=False, score=None,
                **dict.fromkeys(store.texts.columns if store.texts else ()))  # fmt: skip
