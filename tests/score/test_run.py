"""A run in this process, as far as it needs no Ray: what it does to the store around the scoring."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from support.golden import golden_checkpoint
from support.stores import open_store, plan_for, stage, write_manifest

from artimuse_actor.checkpoint.names import identify_checkpoint
from artimuse_actor.images.options import DecodeOptions
from artimuse_actor.protocol.protocols import ARTIMUSE
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
