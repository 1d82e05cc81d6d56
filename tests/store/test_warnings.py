"""The column `warning` in a store: copied, counted, chosen by; and stores with files of before there was one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import duckdb
import polars
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from support.paths import GOLDEN
from support.score_job import golden_options, run_artimuse, run_score, table_rows
from support.stores import complete, open_store, plan_for, stage_with, write_manifest

from jobs.plan.stored_rows import RetryErrors
from jobs.storage.parquet import read_parquet
from jobs.store.counts import Counts
from jobs.store.maintenance import compact
from jobs.store.plan_progress import PlanProgress
from jobs.store.status import store_status
from jobs.store.store import Store
from schemas.scores import LATER

IMAGES = GOLDEN / "artimuse" / "images"
WARNED = {
    "07_rgba.png": "alpha_dropped",
    "08_cmyk.jpg": "cmyk",
    "10_exif6.jpg": "exif_rotated",
    "12_gray16.png": "clipped_16_bit",
}


def _photos(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        shutil.copy(IMAGES / name, folder / name)
    return folder


def _age(path: Path) -> None:
    """Make a scores file one of before there were warnings, and what the camera notes."""
    table = pq.read_table(path)
    pq.write_table(table.drop_columns([field.name for field in LATER]), path, compression="zstd")


def _mixed(folder: Path, *, texts: bool = False) -> Store:
    """A store of an old file, with an error, and a new one, with warnings."""
    store = open_store(folder / "out")
    old = plan_for(store, write_manifest(folder / "old.parquet", ["a", "b"]), "old")
    failed = {"status": ["ok", "error"], "error_type": [None, "corrupt"], "retryable": [None, False]}
    stage_with(store, old, **failed, score=[60.0, None])
    PlanProgress(store, old).commit(old.shards[0])
    _age(folder / "out" / "scores" / "old-00000.parquet")
    new = plan_for(store, write_manifest(folder / "new.parquet", ["c", "d", "e"]), "new")
    warnings = ["exif_rotated+alpha_dropped", None, "exif_rotated"]
    stage_with(store, new, warning=warnings, score=[70.0, 80.0, 90.0])
    PlanProgress(store, new).commit(new.shards[0])
    return store


def _columns(folder: Path, pattern: str) -> list[bool]:
    return ["warning" in pq.read_schema(path).names for path in sorted((folder / "scores").glob(pattern))]


@pytest.mark.process
def test_a_run_writes_counts_and_shows_warnings_and_copies_take_them_over(tmp_path: Path) -> None:
    photos, out = _photos(tmp_path / "photos", *WARNED, "00_rgb_448x448.jpg"), tmp_path / "out"
    screen = run_score(photos, out)
    assert "warnings: 1 alpha_dropped, 1 clipped_16_bit, 1 cmyk, 1 exif_rotated; see the column warning." in screen
    assert {name: row["warning"] for name, row in table_rows(out).items()} == {**WARNED, "00_rgb_448x448.jpg": None}
    shutil.copy(photos / "12_gray16.png", photos / "same.png")
    (photos / "bad.jpg").write_bytes(b"no picture")
    done = json.loads(run_score(photos, out, "--json"))
    assert done["warnings"] == {"alpha_dropped": 1, "cmyk": 1, "exif_rotated": 1, "clipped_16_bit": 2}
    rows = table_rows(out)
    assert (rows["same.png"]["copied_from"], rows["same.png"]["warning"]) == ("12_gray16.png", "clipped_16_bit")
    assert rows["bad.jpg"]["warning"] is None
    assert "warnings: 2 clipped_16_bit, 1 " in run_artimuse("status", out).stdout
    assert json.loads(run_artimuse("status", out, "--json").stdout)["warnings"] == done["warnings"]


def test_one_image_says_its_warning(tmp_path: Path) -> None:
    command = ("image", IMAGES / "12_gray16.png", *golden_options())
    assert "\n  warning: clipped_16_bit\n" in run_artimuse(*command).stdout
    (row,) = json.loads(run_artimuse(*command, "--json").stdout)
    assert row["warning"] == "clipped_16_bit"


@pytest.mark.slow
def test_a_curation_filters_by_warnings(tmp_path: Path) -> None:
    _mixed(tmp_path)
    for where, ids in {
        "warning IS NULL": ["a", "d"],  # of an old file nothing is known
        "warning IS NOT NULL": ["c", "e"],
        "contains(warning, 'alpha_dropped')": ["c"],
        "warning == 'exif_rotated'": ["e"],
    }.items():
        out = tmp_path / f"{len(ids)}{len(where)}.csv"
        run_artimuse("curate", tmp_path / "out", "--where", where, "--top", "9", "--out", out)
        assert polars.read_csv(out)["image_id"].sort().to_list() == ids, where
        assert "warning" in polars.read_csv(out).columns


def test_a_store_of_old_and_new_files_is_counted_reported_and_evaluated(tmp_path: Path) -> None:
    store = _mixed(tmp_path)
    status = store_status(store.place.root)
    assert status.counts.warnings == {"exif_rotated": 2, "alpha_dropped": 1}
    assert (status.counts.ok, status.counts.errors) == (4, {"corrupt": 1})
    run_artimuse("report", tmp_path / "out", "--out", tmp_path / "report.html", "--thumbnails", "0")
    page = (tmp_path / "report.html").read_text()
    assert '<a href="#warnings">' in page
    assert page.index("<code>exif_rotated</code>") < page.index("<code>alpha_dropped</code>")
    truth = pa.table({"image_id": ["a", "c", "d", "e"], "gt_score": [1.0, 2.0, 3.0, 4.0]})
    pq.write_table(truth, tmp_path / "truth.parquet")
    run_artimuse("evaluate", tmp_path / "out", "--ground-truth", tmp_path / "truth.parquet")


def test_a_row_of_an_old_file_that_is_scored_again_makes_it_a_new_file(tmp_path: Path) -> None:
    store = _mixed(tmp_path)
    plan = plan_for(
        store, write_manifest(tmp_path / "b.parquet", ["b"]), "again", RetryErrors(("corrupt",), alone=True)
    )
    stage_with(store, plan, warning="cmyk")
    PlanProgress(store, plan).commit(plan.shards[0])
    assert _columns(tmp_path / "out", "old*") == [True]
    rows = read_parquet(store.place, "scores/old-00000.parquet").to_pylist()
    assert {row["image_id"]: row["warning"] for row in rows} == {"a": None, "b": "cmyk"}


def test_a_compaction_gives_all_rows_the_column(tmp_path: Path) -> None:
    store = _mixed(tmp_path)
    assert _columns(tmp_path / "out", "*") == [True, False]
    compact([store.place.root], str(tmp_path / "new"))
    assert _columns(tmp_path / "new", "*") == [True]
    assert Store.open(str(tmp_path / "new")).counts() == store.counts()
    rows = polars.scan_parquet(tmp_path / "new" / "scores").collect()
    assert rows.filter(polars.col("warning").str.contains("exif_rotated")).height == 2


@pytest.mark.process
def test_an_old_store_without_any_new_row_opens_as_it_is(tmp_path: Path) -> None:
    photos, out = _photos(tmp_path / "photos", "12_gray16.png", "00_rgb_448x448.jpg"), tmp_path / "out"
    run_score(photos, out)
    (file,) = (out / "scores").glob("*.parquet")
    _age(file)
    assert "Nothing to do" in run_score(photos, out)
    assert Store.open(str(out)).counts() == Counts(ok=2)
    shutil.copy(photos / "12_gray16.png", photos / "same.png")
    screen = run_score(photos, out)
    assert "1 of them have the same bytes as others" in screen  # and nothing is known of its warning
    rows = ds.dataset(out / "scores", schema=Store.open(str(out)).schema).to_table().to_pylist()
    assert {row["image_id"]: row["warning"] for row in rows}["same.png"] is None


def test_other_readers_of_a_mixed_store_are_told_that_a_column_came_later(tmp_path: Path) -> None:
    _mixed(tmp_path)
    folder = tmp_path / "out" / "scores"
    assert ds.dataset(folder).to_table(columns=["image_id", "score"]).num_rows == 5
    read = "select count(*), count(warning) from read_parquet('{}/*.parquet', union_by_name=true)"
    assert duckdb.execute(read.format(folder)).fetchall() == [(5, 2)]
    table = polars.scan_parquet(folder, missing_columns="insert").collect()
    assert (table.height, table["warning"].count()) == (5, 2)


def test_a_column_that_is_missing_for_another_reason_is_an_error_as_before(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    complete(store, plan_for(store, write_manifest(tmp_path / "m.parquet", ["a"]), "p"))
    path = tmp_path / "out" / "scores" / "p-00000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["phash", "warning"]), path)
    with pytest.raises(Exception, match="it has no column phash"):
        read_parquet(store.place, "scores/p-00000.parquet", ["image_id", "phash", "warning"])
