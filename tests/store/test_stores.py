"""Several stores read as one: chosen from, queried, counted and evaluated, on a disk and on S3."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import duckdb
import pandas
import polars
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from support.golden import golden_images
from support.score_job import golden_options, run_artimuse
from support.scored_stores import unipercept_store, write_store
from support.stores import FINGERPRINT

from artimuse_actor.errors import StoreError, StoreMismatch
from jobs.curate.curate import CurateSettings, curate
from jobs.manifest.manifest import ManifestOptions
from jobs.storage.s3_place import s3_filesystem
from jobs.store.stores import Stores


def _rows(store: int, count: int = 40) -> list[dict[str, object]]:
    return [
        {
            "image_id": f"{store}/{number:02}.jpg",
            "score": float((number * 7 + store) % 100),
            "sha256": f"{number:032x}" * 2,
        }
        for number in range(count)
    ]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for store in range(3):
        texts = {f"{store}/00.jpg": f"Text {store}."} if store else None
        write_store(tmp_path / "runs" / f"out-{store}", _rows(store), shard_rows=15, texts=texts)
    return tmp_path / "runs"


def _ids(path: Path) -> list[str]:
    ids: list[str] = pq.read_table(path)["image_id"].to_pylist()
    return ids


def test_nothing_is_written_among_the_files_of_a_store(runs: Path) -> None:
    out, other, photos = runs / "out-0", runs / "out-1", golden_images()[0].parent
    before = sorted(out.rglob("*"))
    commands: list[tuple[str | Path, ...]] = [
        ("compact", other, "--out", out / "scores" / "new"),
        ("merge", other, "--into", out / "texts"),
        ("score", photos, "--out", out / "metrics" / "deep" / "er", *golden_options()),
        ("manifest", photos, "--out", out / "scores" / "m.parquet"),
        ("query", other, "SELECT 1 AS a", "--csv", out / "_store.json", "--overwrite"),
        ("report", other, "--out", out / "scores" / "r.html"),
    ]
    for command in commands:
        failed = run_artimuse(*command, code=2).stderr
        assert f"lies among the files of the store {out}. Choose another place." in failed
    assert sorted(out.rglob("*")) == before
    run_artimuse("manifest", photos, "--out", out / "m.parquet")  # beside the tables nobody takes it for rows


def test_the_best_of_several_stores_are_the_best_of_all(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "best.parquet"
    run_artimuse("curate", f"{runs}/out-*", "--top", "10", "--dedupe", "exact", "--out", out)
    every = [row for store in range(3) for row in _rows(store)]
    different: dict[object, dict[str, object]] = {}
    for row in sorted(every, key=lambda row: (-row["score"], row["image_id"])):  # type: ignore[operator]
        different.setdefault(row["sha256"], row)
    best = sorted(different.values(), key=lambda row: (-row["score"], row["image_id"]))[:10]  # type: ignore[operator]
    assert _ids(out) == sorted(str(row["image_id"]) for row in best)  # in the order of the stores
    record = json.loads((tmp_path / "best.parquet.funnel.json").read_text())
    assert record["store"]["roots"] == [f"{runs}/out-{store}" for store in range(3)]
    assert record["funnel"]["rows"] == 120
    assert not list(runs.rglob("_curations"))


def test_texts_and_manifests_go_with_all_stores(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "best.parquet"
    named = [str(runs / f"out-{store}") for store in (2, 0, 1)]
    settings = CurateSettings(named[0], str(out), beside=tuple(named[1:]))
    curate(replace(settings, filters=replace(settings.filters, text_matches="Text")))
    assert _ids(out) == ["2/00.jpg", "1/00.jpg"]
    source = tmp_path / "m.parquet"
    pq.write_table(pq.read_table(out).select(["image_id", "uri"]).slice(1), source)
    curate(replace(settings, manifest=str(source)))
    assert _ids(out) == ["1/00.jpg"]


@pytest.mark.slow
def test_an_id_in_two_stores_is_named_or_the_first_store_counts(runs: Path, tmp_path: Path) -> None:
    write_store(runs / "out-3", [{"image_id": "1/07.jpg", "score": 99.5}, {"image_id": "1/08.jpg", "score": 99.0}])
    failed = run_artimuse("curate", f"{runs}/out-*", "--out", tmp_path / "best.parquet", code=1).stderr
    assert f"2 ids are in more than one store, such as '1/07.jpg' in {runs}/out-1 and in {runs}/out-3" in failed
    assert not (tmp_path / "best.parquet").exists()
    first = ManifestOptions(on_duplicate="first")
    named = [str(runs / f"out-{store}") for store in range(4)]
    for order, best in ((named, "1/14.jpg"), (named[::-1], "1/07.jpg")):
        settings = CurateSettings(order[0], str(tmp_path / "best.parquet"), top="1", manifest_options=first)
        done = curate(replace(settings, beside=tuple(order[1:])))
        assert (_ids(tmp_path / "best.parquet"), done.funnel.rows) == ([best], 120)
        assert any("2 rows of later stores" in note for note in done.funnel.notes)
    assert "2 ids are in more than one store" in run_artimuse("status", *named).stdout


def test_of_a_doubled_id_the_text_is_that_of_the_store_that_counts(runs: Path, tmp_path: Path) -> None:
    write_store(runs / "out-3", [{"image_id": "1/00.jpg"}, {"image_id": "0/00.jpg"}], texts={"1/00.jpg": "Another."})
    named = [str(runs / f"out-{store}") for store in range(4)]
    settings = CurateSettings(named[0], str(tmp_path / "best.parquet"), beside=tuple(named[1:]))
    settings = replace(settings, manifest_options=ManifestOptions(on_duplicate="first"))
    done = curate(replace(settings, filters=replace(settings.filters, where="overall_gestalt <> ''")))
    assert (_ids(tmp_path / "best.parquet"), done.funnel.rows) == (["1/00.jpg", "2/00.jpg"], 120)


def test_stores_that_do_not_go_together_are_refused_by_name(runs: Path, tmp_path: Path) -> None:
    other = write_store(tmp_path / "other", _rows(7))
    other.fingerprint = replace(FINGERPRINT, checkpoint_digest="e" * 64)
    (tmp_path / "other" / "_store.json").unlink()
    other.declare()
    named = (runs / "out-0", tmp_path / "other")
    for command in (["query", *named, "SELECT 1"], ["curate", *named, "--out", tmp_path / "best.parquet"]):
        failed = run_artimuse(*map(str, command), code=1).stderr
        assert f"{runs}/out-0 holds scores of ArtiMuse@cccccc" in failed
        assert f"{tmp_path}/other of ArtiMuse@eeeeee" in failed
        run_artimuse(*map(str, command), "--allow-mixed")
    unipercept_store(tmp_path / "percept", [{"image_id": "p"}])
    with pytest.raises(StoreMismatch, match=r"percept of .*Read them apart\.$"):
        Stores.open([str(runs / "out-0"), str(tmp_path / "percept")], allow_mixed=True)
    with pytest.raises(StoreError, match="out-0: is named twice"):
        Stores.open([str(runs / "out-0"), f"{runs}/*"])
    with pytest.raises(StoreError, match="matches no store"):
        Stores.open([f"{runs}/nothing-*"])
    with pytest.raises(StoreError, match="is no store of scores"):
        Stores.open([str(tmp_path)])


def test_a_query_and_the_status_tell_stores_apart(runs: Path) -> None:
    sql = "SELECT store, count(*) AS n FROM scores GROUP BY store ORDER BY store"
    rows = json.loads(run_artimuse("query", f"{runs}/out-*", sql, "--json").stdout)
    assert rows == [{"store": f"{runs}/out-{store}", "n": 40} for store in range(3)]
    screen = run_artimuse("status", f"{runs}/out-*").stdout
    assert "3 stores: 120 rows planned = 120 ok + 0 failed + 0 remaining; no id is in two of them." in screen
    assert [one["rows"]["ok"] for one in json.loads(run_artimuse("status", f"{runs}/*", "--json").stdout)] == [40] * 3


def test_several_stores_are_evaluated_as_one(runs: Path, tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    lines = [f"{row['image_id']},{row['score']}" for store in range(3) for row in _rows(store)]
    truth.write_text("\n".join(["image_id,gt_score", *lines]))
    words = ("evaluate", f"{runs}/out-*", "--ground-truth", truth, "--require-complete", "--json")
    assert json.loads(run_artimuse(*words).stdout)[0]["counts"]["scored"] == 120
    assert not list(runs.rglob("metrics"))
    assert "Name one with --ground-truth" in run_artimuse("evaluate", f"{runs}/out-*", code=1).stderr


def test_stores_on_s3_are_found_by_a_pattern(s3_environment: None, runs: Path, tmp_path: Path) -> None:
    s3_filesystem().makedirs("several", exist_ok=True)
    s3_filesystem().put(str(runs), "s3://several/runs", recursive=True)
    out = tmp_path / "best.parquet"
    run_artimuse("curate", "s3://several/runs/out-*", runs / "out-0", "--top", "5", "--out", out, code=1)
    run_artimuse("curate", "s3://several/runs/out-[12]", runs / "out-0", "--top", "5", "--out", out)
    assert len(_ids(out)) == 5
    rows = json.loads(
        run_artimuse("query", "s3://several/runs/*", "SELECT DISTINCT store FROM scores", "--json").stdout
    )
    assert {row["store"] for row in rows} == {f"s3://several/runs/out-{store}" for store in range(3)}


@pytest.mark.slow
def test_a_merge_has_the_rows_and_texts_of_all_and_is_scored_into_afterwards(runs: Path, tmp_path: Path) -> None:
    screen = run_artimuse("merge", f"{runs}/out-*", "--into", tmp_path / "new").stdout
    assert screen == f"{tmp_path}/new: 120 rows in 1 file, 9 before.\n"
    merged, apart = (
        json.loads(run_artimuse("query", named, "FROM scores ORDER BY image_id", "--json").stdout)
        for named in (tmp_path / "new", f"{runs}/*")
    )
    assert merged == [{name: value for name, value in row.items() if name != "store"} for row in apart]
    sql = "SELECT image_id, overall_gestalt FROM texts ORDER BY 1"
    assert json.loads(run_artimuse("query", tmp_path / "new", sql, "--json").stdout) == [
        {"image_id": f"{store}/00.jpg", "overall_gestalt": f"Text {store}."} for store in (1, 2)
    ]
    for store in range(3):
        assert run_artimuse("status", runs / f"out-{store}", "--json").stdout  # and they are as they were
    assert "is a store already" in run_artimuse("merge", f"{runs}/*", "--into", tmp_path / "new", code=1).stderr


def test_a_merge_refuses_an_id_in_two_stores_and_other_fingerprints(runs: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "again", _rows(1, 3))
    failed = run_artimuse("merge", runs / "out-1", tmp_path / "again", "--into", tmp_path / "new", code=1).stderr
    assert "3 ids are in more than one store, such as '1/00.jpg'" in failed
    other = write_store(tmp_path / "other", _rows(7))
    other.fingerprint = replace(FINGERPRINT, checkpoint_digest="e" * 64)
    (tmp_path / "other" / "_store.json").unlink()
    other.declare()
    assert "of ArtiMuse@eeeeee" in run_artimuse("merge", runs / "out-1", other.place.root, "--into", "x", code=1).stderr
    assert not (tmp_path / "new" / "_store.json").exists()


@pytest.mark.slow
def test_a_compacted_store_has_large_files_with_statistics_that_every_reader_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"image_id": f"{number:06}", "score": number / 1000} for number in range(70_000)]
    store = write_store(tmp_path / "out", rows, shard_rows=20_000)
    monkeypatch.setattr("jobs.store.maintenance.FILE_BYTES", 10**9)
    run_artimuse("compact", store.place.root, "--out", tmp_path / "new")
    (path,) = (tmp_path / "new" / "scores").iterdir()
    groups = pq.read_metadata(path)
    score = groups.schema.to_arrow_schema().get_field_index("score")
    ends = [groups.row_group(group).column(score).statistics for group in range(groups.num_row_groups)]
    assert [(end.min, round(end.max, 3)) for end in ends] == [(0.0, 65.535), (pytest.approx(65.536), 69.999)]
    folder = tmp_path / "new" / "scores"
    above = 68.0
    assert ds.dataset(folder).to_table(filter=ds.field("score") >= above).num_rows == 2000
    assert polars.scan_parquet(folder).filter(polars.col("score") >= above).collect().height == 2000
    assert len(pandas.read_parquet(folder, filters=[("score", ">=", above)])) == 2000
    assert duckdb.execute(f"SELECT count(*) FROM '{folder}/*.parquet' WHERE score >= {above}").fetchall() == [(2000,)]
    (tmp_path / "day=1").mkdir()
    (tmp_path / "new").rename(tmp_path / "day=1" / "scored")
    every = f"{tmp_path}/day=*/scored/scores/*.parquet"  # as Spark scans partitions
    days = f"SELECT DISTINCT day FROM read_parquet('{every}', hive_partitioning=true)"
    assert duckdb.execute(days).fetchall() == [(1,)]
    assert polars.scan_parquet(every, hive_partitioning=True).select("day").unique().collect().to_series()[0] == 1
