"""`artimuse query`: questions in SQL, and all that one cannot do by them."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.score_job import run_artimuse
from support.scored_stores import write_store

from jobs.evaluate.evaluate import evaluate_store

EVIL = "\x1b[2J=1+1"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("query") / "scored"
    rows = [
        {"image_id": f"{number:03}.jpg", "score": float(number), "format": ["JPEG", "PNG"][number % 2]}
        if number % 10
        else {"image_id": f"{number:03}.jpg", "status": "error"}
        for number in range(100)
    ]
    write_store(folder, rows, shard_rows=30, texts={"001.jpg": EVIL, "002.jpg": "A photo."})
    truth = folder.parent / "truth.csv"
    truth.write_text("image_id,gt_score\n" + "".join(f"{number:03}.jpg,{number / 10}\n" for number in range(100)))
    evaluate_store(str(folder), str(truth))
    return folder


@pytest.mark.slow
def test_a_query_shows_a_table_that_fits_the_terminal(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    sql = "SELECT format, count(*) AS n, avg(score) AS mean FROM scores WHERE status = 'ok' GROUP BY ALL ORDER BY 1"
    lines = run_artimuse("query", store, sql).stdout.splitlines()
    assert [line.split() for line in lines] == [["format", "n", "mean"], ["JPEG", "40", "50"], ["PNG", "50", "50"]]
    wide = run_artimuse("query", store, "SELECT * FROM scores ORDER BY image_id").stdout.splitlines()
    assert max(map(len, wide[:-2])) <= 60
    assert len(wide) == 53
    assert wide[0].split() == ["image_id", "uri", "version", "status", "error_type"]  # none of them cut to nothing
    assert wide[2].split()[0] == "001.jpg"
    assert wide[-2].startswith("… and columns for which there is no room: error_message, retryable, score,")
    assert wide[-1] == "… and more rows than these 50; --json, --csv and --parquet give all."
    assert run_artimuse("query", store, "SELECT 1 AS a WHERE false").stdout.splitlines()[-1] == "no rows"
    long = run_artimuse("query", store, f"SELECT '{'日本' * 50}' AS a, 1234567.25 AS b, 3 AS c").stdout.splitlines()
    assert long[1].split() == [f"{'日本' * 11}…", "1234567.25", "3"]  # numbers stay whole


def test_scores_texts_and_metrics_are_there_and_join(store: Path) -> None:
    joined = "SELECT score, overall_gestalt FROM scores JOIN texts USING (image_id) ORDER BY score"
    assert json.loads(run_artimuse("query", store, joined, "--json").stdout) == [
        {"score": 1.0, "overall_gestalt": EVIL},
        {"score": 2.0, "overall_gestalt": "A photo."},
    ]
    (row,) = json.loads(run_artimuse("query", store, "SELECT expected, scored FROM metrics", "--json").stdout)
    assert row == {"expected": 100, "scored": 90}
    assert json.loads(run_artimuse("query", store, "FROM scores WHERE score > 200", "--json").stdout) == []


@pytest.mark.slow
def test_a_query_is_written_as_csv_or_parquet(store: Path, tmp_path: Path) -> None:
    sql = "SELECT image_id, overall_gestalt AS text FROM texts ORDER BY 1"
    rows = list(csv.reader(io.StringIO(run_artimuse("query", store, sql, "--csv", "-").stdout)))
    assert rows == [["image_id", "text"], ["001.jpg", EVIL], ["002.jpg", "A photo."]]
    screen = run_artimuse("query", store, sql, "--parquet", tmp_path / "t.parquet").stdout
    assert screen == f"{tmp_path}/t.parquet: 2 rows.\n"
    assert pq.read_table(tmp_path / "t.parquet")["text"].to_pylist() == [EVIL, "A photo."]
    run_artimuse("query", store, "SELECT '=1+1' AS a", "--csv", tmp_path / "f.csv")
    assert (tmp_path / "f.csv").read_text() == '"a"\n"\'=1+1"\n'  # no formula to a spreadsheet
    for option, name in (("--csv", "f.csv"), ("--parquet", "t.parquet")):
        refused = run_artimuse("query", store, "SELECT 2 AS a", option, tmp_path / name, code=2).stderr
        assert f"{option} {tmp_path}/{name}: is there already" in refused
    assert (tmp_path / "f.csv").read_text() == '"a"\n"\'=1+1"\n'
    run_artimuse("query", store, "SELECT 2 AS a", "--csv", tmp_path / "f.csv", "--overwrite")
    assert (tmp_path / "f.csv").read_text() == '"a"\n2\n'
    failed = run_artimuse("query", store, "SELECT [1, 2] AS a", "--csv", tmp_path / "n.csv", code=2)
    assert "cannot hold the column 'a'" in failed.stderr
    broken = "SELECT CASE WHEN image_id = '099.jpg' THEN image_id::INT END AS a FROM scores"
    assert "Could not convert" in run_artimuse("query", store, broken, "--csv", tmp_path / "n.csv", code=2).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.csv", "t.parquet"]


@pytest.mark.parametrize("table", ["scores", "texts", "metrics"])
def test_a_query_is_not_written_among_the_rows_it_reads(store: Path, table: str) -> None:
    before = sorted(store.rglob("*"))
    for option in ("--parquet", "--csv"):
        failed = run_artimuse("query", store, f"FROM {table}", option, store / table / "mine.parquet", code=2).stderr
        assert "lies among the files of the store" in failed
    assert sorted(store.rglob("*")) == before


def test_a_link_is_written_through(store: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "rows.csv").symlink_to(tmp_path / "disk" / "rows.csv")
    run_artimuse("query", store, "SELECT 1 AS a", "--csv", tmp_path / "rows.csv", "--overwrite")
    assert (tmp_path / "rows.csv").is_symlink()
    assert (tmp_path / "disk" / "rows.csv").read_text().split() == ['"a"', "1"]


def test_numbers_of_any_width_are_numbers_in_json(store: Path) -> None:
    sql = "SELECT sum(number) AS whole, sum(number)::DECIMAL(9, 1) + 0.5 AS part FROM range(4) AS t(number)"
    assert json.loads(run_artimuse("query", store, sql, "--json").stdout) == [{"whole": 6, "part": 6.5}]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_times_are_in_utc_on_every_machine(store: Path, monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        (row,) = json.loads(
            run_artimuse("query", store, "SELECT '2026-01-01 12:00'::TIMESTAMPTZ AS noon", "--json").stdout
        )
    time.tzset()
    assert row["noon"].startswith("2026-01-01 12:00:00")
    assert "09" not in row["noon"]


def test_texts_of_strangers_do_not_drive_the_terminal(store: Path) -> None:
    screen = run_artimuse("query", store, 'SELECT overall_gestalt AS "a\x1b[2J" FROM texts ORDER BY image_id').stdout
    assert "\x1b" not in screen
    assert r"\x1b[2J=1+1" in screen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        ("SELECT scroe FROM scores", "scores has image_id, uri, version, status"),
        ("SELECT * FROM photos", "The tables are scores, texts, metrics"),
        ("SELECT", "SELECT clause without selection list"),
        ("SELECT 1; SELECT 2", "only one statement that reads"),
        ("COPY scores TO '{here}/x.csv'", "only one statement that reads"),
        ("COPY (SELECT 1) TO '{store}/scores/t-00000.parquet'", "only one statement that reads"),
        ("CREATE TABLE a AS SELECT 1", "only one statement that reads"),
        ("INSTALL httpfs", "only one statement that reads"),
        ("SET enable_external_access = true", "only one statement that reads"),
        ("ATTACH '{here}/x.db'", "only one statement that reads"),
        ("SELECT * FROM read_text('/etc/passwd')", "file system operations are disabled"),
        ("SELECT * FROM read_csv('{store}/_store.json')", "file system operations are disabled"),
        ("SELECT * FROM glob('/**')", "file system operations are disabled"),
        ("SELECT * FROM 'https://example.com/a.parquet'", "disabled|does not exist|extension"),
        ("SELECT * FROM query('COPY scores TO ''{here}/x.csv''')", "SELECT"),
        ("SELECT count(*) FROM range(10000000000000)", "takes longer than it may"),
        ("SELECT len(range(3000000000))", "takes more memory than it may"),
        ("SELECT INTERVAL 1 DAY AS d", "column 'd' is an INTERVAL. Write CAST(… AS VARCHAR)"),
        ("SELECT 1 AS a, 2 AS a", "Two columns are called 'a'"),
    ],
)
def test_what_a_query_may_not_do_gets_a_sentence(store: Path, tmp_path: Path, sql: str, sentence: str) -> None:
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    text = sql.format(here=tmp_path, store=store)
    limits = ("--timeout", "1.5", "--memory", str(64 * 2**20), "--json")
    failed = run_artimuse("query", store, text, *limits, code=2)
    assert any(part in failed.stderr for part in sentence.split("|")), failed.stderr
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before
    assert not list(tmp_path.iterdir())


def test_wrong_options_of_a_query_get_a_sentence(store: Path) -> None:
    for options in (("--timeout", "0"), ("--memory", "5"), ("--json", "--csv", "-")):
        assert run_artimuse("query", store, "SELECT 1", *options, code=2).stderr.startswith("UsageError: --")
