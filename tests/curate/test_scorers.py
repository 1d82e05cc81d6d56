"""Scores of several checkpoints in one curation, joined by image_id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.score_job import run_artimuse
from support.scored_stores import unipercept_store, write_store

IDS = [f"{number:03}" for number in range(250)]


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    """`a` scores all images in order; `b` scores them in another order, without every tenth."""
    write_store(tmp_path / "a", [{"image_id": name, "score": int(name) % 100 + 0.5} for name in IDS])
    other = [{"image_id": name, "score": 100 - int(name) % 100} for name in reversed(IDS) if not name.endswith("0")]
    write_store(tmp_path / "b", other, shard_rows=30)
    return tmp_path


def _chosen(stores: Path, *arguments: str | Path) -> list[dict[str, Any]]:
    out = stores / "out.jsonl"
    run_artimuse("curate", *arguments, "--out", out)
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.slow
def test_a_condition_on_two_scorers_keeps_what_a_join_by_hand_keeps(stores: Path) -> None:
    expected = [
        (name, int(name) % 100 + 0.5, 100 - int(name) % 100)
        for name in IDS
        if int(name) % 100 + 0.5 > 30 and not name.endswith("0") and 100 - int(name) % 100 > 50
    ]
    named = ((stores / "a", "score > 30"), (f"a={stores}/a", "a_score > 30"))
    for first, condition in named:
        rows = _chosen(stores, first, f"b={stores}/b", "--where", f"{condition} AND b_score > 50")
        assert [(row["image_id"], row["score"], row["b_score"]) for row in rows] == expected
        assert "a_score" not in rows[0]
    best = _chosen(stores, stores / "a", f"b={stores}/b", "--where", "B_SCORE > 50", "--order", "score", "--top", "3")
    assert [(row["score"], row["b_score"]) for row in best] == [(49.5, 51.0)] * 3


def test_images_that_the_other_store_lacks_have_no_score_of_it_and_are_counted(stores: Path) -> None:
    rows = _chosen(stores, stores / "a", f"b={stores}/b")
    assert [row["image_id"] for row in rows] == IDS
    assert {row["image_id"] for row in rows if row["b_score"] is None} == set(IDS[::10])
    done = run_artimuse("curate", stores / "a", f"b={stores}/b", "--out", stores / "out.jsonl")
    assert f"25 of 250 rows are not in b={stores}/b." in " ".join(done.stdout.split())


@pytest.mark.slow
def test_scorers_go_with_a_manifest_with_groups_and_with_a_third(stores: Path) -> None:
    unipercept_store(stores / "u", [{"image_id": name, "iaa": 10.0, "iqa": float(name), "ista": 5.0} for name in IDS])
    manifest = stores / "m.parquet"
    pq.write_table(pa.table({"image_id": IDS[:40], "uri": IDS[:40], "kind": ["x", "y"] * 20}), manifest)
    asked = (stores / "a", f"b={stores}/b", f"u={stores}/u", "--manifest", manifest)
    rows = _chosen(stores, *asked, "--where", "u_iqa >= 20 AND b_score IS NOT NULL", "--top", "1", "--per", "kind")
    assert [(row["image_id"], row["kind"], row["u_iqa"]) for row in rows] == [("038", "x", 38.0), ("039", "y", 39.0)]


@pytest.mark.slow
def test_names_that_cannot_be_are_sentences(stores: Path) -> None:
    for arguments, sentence in (
        ((stores / "a", f"b={stores}/b", f"B={stores}/b"), "Two stores are named b="),
        ((stores / "a", f"b={stores}/*"), "Make them one first"),
        ((stores / "a", f"b={stores}/b", "--where", "b_iqa > 5"), "no column 'b_iqa'"),
    ):
        refused = run_artimuse("curate", *arguments, "--out", stores / "out.jsonl", code=2)
        assert sentence in " ".join(refused.stderr.split())
    run_artimuse("curate", stores / "a", "b=nowhere", "--out", stores / "out.jsonl", code=1)
    refused = run_artimuse("curate", stores / "a", f"b={stores}/b", "--out", stores / "b/scores/x.parquet", code=2)
    assert not (stores / "b/scores/x.parquet").exists()
    assert not (stores / "out.jsonl").exists()
    (stores / "c=d").mkdir()
    (stores / "a").rename(stores / "c=d/a")  # a path that looks like one
    assert len(_chosen(stores, stores / "c=d/a")) == 250
