"""Ids that are made of urls: joins by url, and what stays secret."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.golden import golden_images
from support.range_server import RangeServer
from support.score_job import golden_options, run_artimuse, run_score, table_rows

from artimuse_actor.uris import shown_uri, uri_as_id

SECRET = "hunter2"


@pytest.mark.server
@pytest.mark.process
def test_urls_with_any_query_are_joined_by_evaluate_and_curate(tmp_path: Path) -> None:
    names = [path.name for path in golden_images()[:6]]
    with RangeServer(golden_images()[0].parent) as server:
        urls = [f"{server.url}/{name}?key=photos/{name}&token={SECRET}{name}" for name in names]
        columns = {"url": urls, "gt_score": [float(n) for n in range(6)], "caption": [f"of {name}" for name in names]}
        pq.write_table(pa.table(columns), tmp_path / "m.parquet")
        run_score(tmp_path / "m.parquet", tmp_path / "out", "--allow-private-hosts")
    rows = table_rows(tmp_path / "out")
    assert len(rows) == 6
    assert all("#…" in name and SECRET not in name for name in rows)
    by_url: list[str | Path] = ["--ground-truth", tmp_path / "m.parquet", "--on", "url"]
    for command in ([], by_url):
        (found,) = json.loads(run_artimuse("evaluate", tmp_path / "out", *command, "--json").stdout)
        assert found["counts"]["scored"] == 6, command
    run_artimuse(
        "curate", tmp_path / "out", "--manifest", tmp_path / "m.parquet", "--top", "2", "--out", tmp_path / "b.parquet"
    )
    for row in pq.read_table(tmp_path / "b.parquet").to_pylist():
        assert rows[row["image_id"]]["score"] == row["score"]
        assert row["caption"].removeprefix("of ") in row["url"]


@pytest.mark.process
def test_an_id_of_the_manifest_is_stored_as_given_and_not_shown(tmp_path: Path) -> None:
    given = f"https://ann:{SECRET}@h/a.jpg?token={SECRET}"
    columns = {"image_id": [given, "b"], "uri": [str(golden_images()[4]), str(tmp_path / "gone.jpg")]}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    screen = run_score(tmp_path / "m.parquet", tmp_path / "out")
    assert sorted(table_rows(tmp_path / "out")) == ["b", given]
    pq.write_table(pa.table({"image_id": [given, given], "uri": ["x", "y"]}), tmp_path / "doubled.parquet")
    done = run_artimuse("score", tmp_path / "doubled.parquet", "--out", tmp_path / "new", *golden_options(), code=1)
    for text in (screen, done.stderr, run_artimuse("status", tmp_path / "out").stdout):
        assert SECRET not in text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("abfss://train@account.dfs.core.windows.net/a.jpg", "abfss://test@account.dfs.core.windows.net/a.jpg"),
        ("https://h/show?key=a", "https://h/show?key=b"),
        ("https://h/a.jpg?id=1", "https://h/a.jpg?id=2"),
        ("s3://bucket/a.jpg?x=1", "s3://bucket/a.jpg?x=2"),
        ("https://h/a.jpg#one", "https://h/a.jpg#two"),
    ],
)
def test_urls_of_different_images_have_different_ids(one: str, other: str) -> None:
    assert uri_as_id(one) != uri_as_id(other)
    assert shown_uri(uri_as_id(one)) == uri_as_id(one)


@pytest.mark.parametrize("uri", [f"abfss://ann:{SECRET}@account/a.jpg"])
def test_a_password_before_an_account_is_left_out(uri: str) -> None:
    assert SECRET not in shown_uri(uri)
