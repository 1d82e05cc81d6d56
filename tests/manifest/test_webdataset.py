"""Tars that the package `webdataset` wrote are scored, and it reads those that a curation writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import webdataset
from support.golden import golden_answers, golden_images
from support.score_job import run_artimuse, run_score, table_rows

SCORES = {answer["image"]: answer["scores"]["score"]["score"] for answer in golden_answers("artimuse")}


@pytest.mark.process
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_its_tars_are_scored_and_it_reads_what_is_chosen_of_them(tmp_path: Path) -> None:
    pictures = [path for path in golden_images() if path.suffix == ".jpg"][:3]
    folder = tmp_path / "data"
    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxcount=2, verbose=0) as writer:
        for number, picture in enumerate(pictures):
            sample = {"jpg": picture.read_bytes(), "txt": f"picture {number}", "json": {"name": picture.name}}
            writer.write({"__key__": f"sample{number}", **sample})
        writer.write({"__key__": "broken", "jpg": pictures[0].read_bytes()[:3000], "txt": "cut", "json": {}})

    run_score(folder, tmp_path / "scored")
    rows = table_rows(tmp_path / "scored")
    keys = ["00000.tar/sample0.jpg", "00000.tar/sample1.jpg", "00001.tar/sample2.jpg"]
    assert sorted(rows) == [*keys[:2], "00001.tar/broken.jpg", keys[2]]
    assert [rows[key]["score"] for key in keys] == pytest.approx([SCORES[path.name] for path in pictures], abs=1e-3)
    assert rows["00001.tar/broken.jpg"]["error_type"] == "truncated"

    options = ("--manifest", folder, "--as", "webdataset", "--keys", "source")
    run_artimuse("curate", tmp_path / "scored", "--top", "2", *options, "--out", tmp_path / "best")
    best = sorted(keys, key=lambda key: rows[key]["score"], reverse=True)[:2]
    tars = [str(path) for path in sorted((tmp_path / "best").glob("*.tar"))]
    read: dict[str, Any] = {row["__key__"]: row for row in webdataset.WebDataset(tars, shardshuffle=False)}
    about = {key: json.loads(row["json"]) for key, row in read.items()}
    assert sorted(one["image_id"] for one in about.values()) == sorted(best)
    for key, row in read.items():
        number = int(about[key]["image_id"].removesuffix(".jpg")[-1])
        assert row["jpg"] == pictures[number].read_bytes()
        assert row["txt"].decode() == f"picture {number}"
        assert about[key]["score"] == pytest.approx(SCORES[pictures[number].name], abs=1e-3)
