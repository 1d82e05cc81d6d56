"""A run in this process, as far as it needs no Ray: what it does to the store around the scoring."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
from support.golden import golden_checkpoint
from support.photo_library import make_photos
from support.score_job import golden_options, run_artimuse, run_score, table_rows
from support.stores import open_store, plan_for, stage, write_manifest

from artimuse_actor.checkpoint.names import identify_checkpoint
from artimuse_actor.images.options import DecodeOptions
from artimuse_actor.protocol.protocols import ARTIMUSE
from jobs.score import commit
from jobs.score.commit import ShardCommitter
from jobs.score.run import score
from jobs.score.settings import ScoreSettings
from jobs.storage.local_place import LocalPlace
from jobs.storage.place import StoredFile
from jobs.store.fingerprints import fingerprint_of


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Number of listings of each folder: with 76,000 files one listing takes 77 requests to S3."""
    counted: Counter[str] = Counter()
    files = LocalPlace.files

    def counting(place: LocalPlace, folder: str) -> list[StoredFile]:
        counted[folder] += 1
        return files(place, folder)

    monkeypatch.setattr(LocalPlace, "files", counting)
    return counted


def test_a_resumed_run_lists_the_tables_once_before_its_work_and_once_after(
    tmp_path: Path, listings: Counter[str]
) -> None:
    checkpoint = golden_checkpoint("artimuse")
    fingerprint = fingerprint_of(identify_checkpoint(str(checkpoint)), ARTIMUSE, DecodeOptions())
    store = open_store(tmp_path / "out", fingerprint=fingerprint)
    source = write_manifest(tmp_path / "m.parquet", list("abcdef"))
    plan = plan_for(store, source, "p", shard_rows=2)
    for shard in plan.shards:
        stage(store, plan, shard, [0])
    settings = ScoreSettings(source, str(checkpoint), str(tmp_path / "out"), protocol="artimuse")

    listings.clear()
    result = score(settings)
    assert (result.counts.rows, result.record.plan_id, result.was_finished) == (6, "p", False)
    assert (listings["scores"], listings["texts"]) == (2, 2)

    listings.clear()
    assert score(settings).was_finished
    assert (listings["scores"], listings["texts"]) == (2, 2)
    assert sum(listings.values()) < 10


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_rows_of_an_unfinished_shard_are_in_the_tables_and_the_next_run_says_what_it_took_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = make_photos(tmp_path / "photos", 4)
    staged = ShardCommitter.unit_staged
    seen: list[list[str]] = []

    def stop_at_the_second(committer: ShardCommitter, *unit: Any) -> None:
        staged(committer, *unit)
        wait(committer._commits)
        seen.append(sorted(table_rows(tmp_path / "out")))
        if len(seen) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(commit, "PART_EVERY_S", 0.0)
    monkeypatch.setattr(ShardCommitter, "unit_staged", stop_at_the_second)
    options = ("score", tmp_path / "photos", "--out", tmp_path / "out", "--unit-size", "1", *golden_options())
    run_artimuse(*options, "--local", code=130)
    assert seen == [names[:1], names[:2]]
    monkeypatch.undo()
    assert "4 rows planned = 2 ok + 0 failed + 2 remaining" in run_artimuse("status", tmp_path / "out").stdout
    run_artimuse("report", tmp_path / "out", "--thumbnails", "0", "--out", tmp_path / "report.html")
    run_artimuse("curate", tmp_path / "out", "--min-score", "0", "--out", tmp_path / "best.csv")
    assert len((tmp_path / "best.csv").read_text().splitlines()) == 1 + 2

    screen = run_score(tmp_path / "photos", tmp_path / "out", "--unit-size", "1")
    assert screen.startswith("2 of 4 images in ")
    assert "; 2 an earlier run had scored." in screen
    assert sorted(table_rows(tmp_path / "out")) == names
    runs = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("_runs/*/run.json")]
    assert sorted((run["scored_rows"], run["staged_rows"], run["held_rows"]) for run in runs) == [(2, 0, 0), (2, 2, 0)]
