"""Stores in the forms that other tools open, each opened by the tool it is for."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import lance
import polars
import pyarrow.parquet as pq
import pytest
from support.score_job import run_artimuse
from support.scored_stores import write_store
from support.tars import write_tar

from jobs.export import hugging_face
from jobs.export.export import KINDS
from jobs.manifest.source import open_manifest
from jobs.storage.s3_place import s3_filesystem

TEXT = 'It\'s \x1b[2J "golden" — 夕焼け'


def _rows(store: str, count: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number in range(count):
        name = f"{store}/{number:03}.jpg"
        rows.append({"image_id": name, "score": number / 3} if number % 7 else {"image_id": name, "status": "error"})
    return rows


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stores; the second has a text, and an id of the first with another score and another text."""
    folder = tmp_path_factory.mktemp("runs")
    write_store(folder / "a", _rows("a", 30), shard_rows=11, texts={"a/001.jpg": TEXT})
    twice = [{"image_id": "a/001.jpg", "score": 99.0}]
    write_store(folder / "b", _rows("b", 20) + twice, texts={"a/001.jpg": "Another.", "b/001.jpg": "A photo."})
    return folder


@pytest.mark.slow
def test_duckdb_opens_what_was_exported_and_knows_what_each_column_is(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.duckdb"
    for rows in (21, 30):  # the second replaces the first
        shown = run_artimuse("export", runs / ("b" if rows == 21 else "a"), "--as", "sql", "--out", out).stdout
        assert shown == f"{out}: {rows} rows.\n"
    with duckdb.connect(str(out), read_only=True) as database:
        joined = database.sql("SELECT image_id, score, overall_gestalt FROM scores JOIN texts USING (image_id)")
        assert joined.fetchall() == [("a/001.jpg", pytest.approx(1 / 3), TEXT)]
        counts = database.sql("SELECT count(*), count(score), count(*) FILTER (status = 'error') FROM scores")
        assert counts.fetchall() == [(30, 25, 5)]
        about = "SELECT comment FROM duckdb_columns() WHERE table_name = 'scores' AND column_name = 'score'"
        assert database.sql(about).fetchall() == [("null if error; points, 0 to 100",)]
        origin = dict(database.sql("FROM artimuse_export").fetchall())
    assert json.loads(origin["artimuse.fingerprint"])["checkpoint"] == "ArtiMuse"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.duckdb"]


def test_sqlite_has_several_stores_as_one(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.sqlite"
    failed = run_artimuse("export", f"{runs}/*", "--as", "sql", "--out", out, code=1).stderr
    assert f"1 id is in more than one store, such as 'a/001.jpg' in {runs}/a and in {runs}/b" in failed
    assert not list(tmp_path.iterdir())
    shown = run_artimuse("export", f"{runs}/*", "--as", "sql", "--out", out, "--on-duplicate", "first", "--json").stdout
    assert json.loads(shown)["rows"] == 50
    assert json.loads(shown)["notes"] == ["1 row of a later store has the id of an earlier one, and was passed over."]
    with closing(sqlite3.connect(out)) as database:
        texts = database.execute(
            "SELECT store, score, overall_gestalt FROM scores JOIN texts USING (image_id) ORDER BY image_id"
        ).fetchall()
        assert texts == [
            (f"{runs}/{name}", pytest.approx(1 / 3), text) for name, text in (("a", TEXT), ("b", "A photo."))
        ]
        row = database.execute("SELECT score, retryable, datetime(scored_at) FROM scores WHERE image_id = 'b/007.jpg'")
        assert row.fetchall() == [(None, 0, "1970-01-01 00:00:00")]
        assert database.execute("SELECT count(*) FROM metrics").fetchall() == [(0,)]


@pytest.mark.parametrize("name", ["mine.duckdb", "mine.sqlite"])
def test_a_file_of_somebody_else_is_not_replaced(runs: Path, tmp_path: Path, name: str) -> None:
    mine = tmp_path / name
    mine.write_text("mine")
    failed = run_artimuse("export", runs / "a", "--as", "sql", "--out", mine, code=1).stderr
    assert "no export wrote it" in failed
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("name", ["a#1.sqlite", "b?c.sqlite", "50%25.sqlite", "a#1.duckdb"])
def test_an_export_may_be_called_as_it_likes_and_is_replaced(runs: Path, tmp_path: Path, name: str) -> None:
    for _ in range(2):
        run_artimuse("export", runs / "b", "--as", "sql", "--out", tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_wrong_options_of_an_export_get_a_sentence(runs: Path, tmp_path: Path) -> None:
    for arguments, sentence in (
        (("--as", "sq1", "--out", tmp_path / "a.db"), f"--as takes {', '.join(KINDS)}, not 'sq1'"),
        (("--as", "sql"), "--as sql needs --out"),
        (("--as", "sql", "--out", tmp_path / "a.csv"), "called .duckdb or .sqlite"),
        (("--as", "sql", "--out", "s3://bucket/a.db"), "a file on a disk"),
        (("--as", "sql", "--out", runs / "a" / "scores" / "a.db"), "lies among the files of the store"),
    ):
        assert sentence in run_artimuse("export", runs / "a", *arguments, code=2).stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_datasets_opens_what_was_exported_with_its_features(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    out = tmp_path / "on-the-hub"
    monkeypatch.setattr(hugging_face, "_TEXT_FILE_ROWS", 7)  # all files are full
    assert "21 rows in 3 files" in run_artimuse("export", runs / "b", "--as", "hf", "--out", out).stdout
    monkeypatch.setattr(hugging_face, "_TEXT_FILE_ROWS", 12)
    shown = run_artimuse("export", runs / "a", "--as", "hf", "--out", out).stdout
    assert shown == f"{out}: 30 rows in 3 files.\n"
    assert len(list(out.rglob("*.parquet"))) == 3
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset(str(out), split="train", cache_dir=cache)
    assert loaded["image_id"] == [row["image_id"] for row in _rows("a", 30)]
    assert loaded[1]["overall_gestalt"] == TEXT
    assert loaded.features["score"] == datasets.Value("float32")
    assert loaded.features["scored_at"] == datasets.Value("timestamp[us, tz=UTC]")
    assert "| `score` | float | null if error; points, 0 to 100 |" in (out / "README.md").read_text()
    as_it_is = datasets.load_dataset("parquet", data_files=f"{runs}/a/scores/*.parquet", split="train", cache_dir=cache)
    assert as_it_is["score"] == loaded["score"]
    (out / "README.md").write_text("my own card")
    failed = run_artimuse("export", runs / "a", "--as", "hf", "--out", out, code=1).stderr
    assert "no export wrote it" in failed
    assert (out / "README.md").read_text() == "my own card"


@pytest.mark.slow
def test_a_sidecar_has_the_samples_of_its_tar_in_its_order(tmp_path: Path) -> None:
    names = {"00000": ["b.jpg", "a.jpg", "dir/c.d.jpg", "00000.tar/e.jpg"], "sub/00000": ["z.png"]}
    for tar, members in names.items():
        others = {"b.json": b"{}", "b.txt": b"A caption."}
        write_tar(tmp_path / "tars" / f"{tar}.tar", {name: name.encode() for name in members} | others)
    batches = [batch.rows for batch in open_manifest(str(tmp_path / "tars")).batches()]
    rows = [row for batch in batches for row in batch.select(["image_id", "uri", "version"]).to_pylist()]
    rows = [row | {"score": float(number)} for number, row in enumerate(rows)]
    write_store(tmp_path / "scored", [*reversed(rows), {"image_id": "loose.jpg"}], shard_rows=2)
    for options in ((), (), ("--out", tmp_path / "aside")):
        shown = run_artimuse("export", tmp_path / "scored", "--as", "sidecar", *options).stdout
        assert "1 row is not of a tar file, and was left out." in shown
        assert "5 rows in 2 files" in shown
    for tar, members in names.items():
        found = pq.read_table(tmp_path / "tars" / f"{tar}.scores.parquet")
        assert found.equals(pq.read_table(tmp_path / "aside" / f"{tar}.scores.parquet"))
        # As webdataset makes `__key__`.
        assert found["key"].to_pylist() == [re.match(r"((?:.*/|)[^.]+)[.]", name)[1] for name in members]  # type: ignore[index]
        assert found["image_id"].to_pylist() == [f"{tar}.tar/{name}" for name in members]
        assert found["score"].to_pylist() == [
            row["score"] for row in rows if row["image_id"] in found["image_id"].to_pylist()
        ]
    # They are no sources of their own: the tars are the same source as before.
    assert sum(len(batch.rows) for batch in open_manifest(str(tmp_path / "tars")).batches()) == 5
    (tmp_path / "tars" / "00000.scores.parquet").write_bytes(b"mine")
    failed = run_artimuse("export", tmp_path / "scored", "--as", "sidecar", code=1).stderr
    assert f"{tmp_path}/tars/00000.scores.parquet: is there already and no export wrote it" in failed
    (tmp_path / "tars" / "00000.scores.parquet").unlink()
    (tmp_path / "tars" / "00000.tar").unlink()
    failed = run_artimuse("export", tmp_path / "scored", "--as", "sidecar", code=1).stderr
    assert f"{tmp_path}/tars/00000.tar: is not there any more" in failed


@pytest.mark.parametrize("tar", ["../00000.tar", "a/../../00000.tar"])
def test_a_store_from_elsewhere_names_no_place_for_sidecars(tmp_path: Path, tar: str) -> None:
    row = {"image_id": f"{tar}/a.jpg", "uri": "https://example.com/00000.tar#bytes=0-9"}
    write_store(tmp_path / "scored", [row])
    failed = run_artimuse("export", tmp_path / "scored", "--as", "sidecar", "--out", tmp_path / "side", code=1).stderr
    assert "is no path within a folder" in failed
    failed = run_artimuse("export", tmp_path / "scored", "--as", "sidecar", code=2).stderr
    assert "nothing can be written beside https://example.com/00000.tar" in failed
    assert [path.name for path in tmp_path.iterdir()] == ["scored"]


def test_two_tars_of_one_name_have_no_one_sidecar(tmp_path: Path) -> None:
    for store, folder in (("one", "/data/one"), ("two", "/data/two")):
        uri = f"{folder}/00000.tar#bytes=0-9"
        write_store(tmp_path / store, [{"image_id": f"00000.tar/{store}.jpg", "uri": uri}])
    command = ("export", tmp_path / "one", tmp_path / "two", "--as", "sidecar", "--out", tmp_path / "side")
    failed = run_artimuse(*command, code=1).stderr
    assert f"{tmp_path}/side/00000.scores.parquet: would be the file of /data/one/00000.tar and of /data/two/" in failed
    assert not (tmp_path / "side").exists()


def _read_delta(uri: str, options: dict[str, str] | None) -> list[dict[str, Any]]:
    return polars.read_delta(uri, storage_options=options).to_dicts()


def _read_lance(uri: str, options: dict[str, str] | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = lance.dataset(uri, storage_options=options).to_table().to_pylist()
    return rows


READERS: dict[str, Callable[[str, dict[str, str] | None], list[dict[str, Any]]]] = {
    "delta": _read_delta,
    "lance": _read_lance,
}


@pytest.mark.parametrize("kind", READERS)
def test_delta_and_lance_tables_are_opened_by_their_own_packages(runs: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "table"
    run_artimuse("export", runs / "b", "--as", kind, "--out", out)
    assert run_artimuse("export", runs / "a", "--as", kind, "--out", out).stdout == f"{out}: 30 rows.\n"
    rows = READERS[kind](str(out), None)
    assert [row["image_id"] for row in rows] == [row["image_id"] for row in _rows("a", 30)]
    assert (rows[0]["score"], rows[1]["overall_gestalt"]) == (None, TEXT)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.parquet").write_bytes(b"mine")
    failed = run_artimuse("export", runs / "a", "--as", kind, "--out", tmp_path / "mine", code=1).stderr
    assert "no export wrote it" in failed


def test_exports_go_to_s3_and_from_there(runs: Path, tmp_path: Path, s3_environment: dict[str, str]) -> None:
    s3_filesystem().makedirs("exported", exist_ok=True)
    s3_filesystem().put(str(runs / "a"), "exported/scored", recursive=True)
    options = {"AWS_ALLOW_HTTP": "true"}
    for kind, read in READERS.items():
        for _ in range(2):
            run_artimuse("export", "s3://exported/scored", "--as", kind, "--out", f"s3://exported/{kind}")
        assert len(read(f"s3://exported/{kind}", options)) == 30
    for store in ("a", "b"):
        run_artimuse("export", runs / store, "--as", "hf", "--out", "s3://exported/hf")
    names = sorted(path.removeprefix("exported/hf/") for path in s3_filesystem().find("exported/hf"))
    assert names == ["README.md", "data/train-00000-of-00001.parquet"]
