"""Stores in the forms that other tools open, each opened by the tool it is for."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest
from support.score_job import run_artimuse
from support.scored_stores import write_store

from jobs.export.export import KINDS

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


def test_wrong_options_of_an_export_get_a_sentence(runs: Path, tmp_path: Path) -> None:
    for arguments, sentence in (
        (("--as", "sq1", "--out", tmp_path / "a.db"), f"--as takes {', '.join(KINDS)}, not 'sq1'"),
        (("--as", "sql"), "--as sql needs --out"),
        (("--as", "sql", "--out", tmp_path / "a.csv"), "called .duckdb or .sqlite"),
        (("--as", "sql", "--out", "s3://bucket/a.db"), "a file on a disk"),
        (("--as", "sql", "--out", runs / "a" / "scores" / "a.db"), "lies in a table of the store"),
    ):
        assert sentence in run_artimuse("export", runs / "a", *arguments, code=2).stderr
    assert not list(tmp_path.iterdir())
