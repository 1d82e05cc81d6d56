"""Pruning: only rows of images that are known to be gone are dropped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from support.golden import golden_checkpoint
from support.score_job import run_artimuse
from support.stores import complete, open_store, plan_for, write_manifest
from support.tars import write_tar

from artimuse_actor.checkpoint.names import identify_checkpoint
from artimuse_actor.errors import ManifestError, RunError, UsageError
from artimuse_actor.images.options import DecodeOptions
from artimuse_actor.protocol.protocols import ARTIMUSE
from jobs.manifest.manifest import ManifestOptions
from jobs.manifest.source import open_manifest
from jobs.score.run import score
from jobs.score.settings import ScoreSettings
from jobs.store.fingerprints import fingerprint_of
from jobs.store.pruning import PruneCounts, Pruner
from jobs.store.run_record import RunRecord
from jobs.store.status import store_status
from jobs.store.store import Store
from jobs.store.text_request import WantedTexts


def _library(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return str(folder)


def _scored(store: Store, source: str, run_id: str = "p") -> None:
    RunRecord(run_id, {"source": source}, store.fingerprint).write(store.place)
    complete(store, plan_for(store, source, run_id, shard_rows=2))


def _ids(store: Store, table: str = "scores") -> list[str]:
    return sorted(ds.dataset(f"{store.place.root}/{table}").to_table(columns=["image_id"])["image_id"].to_pylist())


def _pruner(store: Store, source: str) -> Pruner:
    return Pruner(store, open_manifest(source))


def test_rows_that_left_the_source_stay_unless_they_are_pruned(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out", WantedTexts(["overall_gestalt"]))
    source = _library(tmp_path / "photos", *(f"{name}.jpg" for name in "abcdef"))
    _scored(store, source)
    for name in "acd":
        (tmp_path / "photos" / f"{name}.jpg").unlink()
    assert plan_for(store, source, "q").rows == 0
    assert len(_ids(store)) == 6
    assert _pruner(store, source).count() == PruneCounts(3, 0, 6)
    assert _pruner(store, source).drop().gone == 3
    assert _ids(store) == _ids(store, "texts") == ["b.jpg", "e.jpg", "f.jpg"]
    # A file that has no rows left stays: a reader that has just listed it can read it.
    files = sorted((tmp_path / "out" / "scores").iterdir())
    assert [len(pq.read_table(path)) for path in files] == [1, 0, 2]
    assert pq.read_schema(files[0]).metadata[b"artimuse.plan"] == b"p"
    assert _pruner(store, source).drop().gone == 0
    assert store_status(str(tmp_path / "out")).remaining == 0


def test_rows_below_folders_that_were_not_looked_into_or_are_empty_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "out")
    names = ("a.jpg", "unreadable/b.jpg", "mount/c.jpg", "link/d.jpg", "gone/e.jpg", "mount2/f.jpg")
    source = _library(tmp_path / "photos", *names)
    _scored(store, source)
    for name in names[2:]:
        (tmp_path / "photos" / name).unlink()
    for name in ("link", "gone"):
        (tmp_path / "photos" / name).rmdir()
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    walk = os.walk

    def walk_some(root: str, onerror: Any = print) -> Iterator[tuple[str, list[str], list[str]]]:
        for parent, folders, files in walk(root):
            if parent.endswith("/unreadable"):
                onerror(PermissionError(13, "Permission denied", parent))
            else:
                yield parent, folders, files

    monkeypatch.setattr("jobs.manifest.listing.os.walk", walk_some)
    assert _pruner(store, source).count() == PruneCounts(1, 4, 6)
    assert _pruner(store, source).drop().gone == 1
    assert _ids(store) == ["a.jpg", "link/d.jpg", "mount/c.jpg", "mount2/f.jpg", "unreadable/b.jpg"]


def test_rows_below_a_folder_whose_name_is_not_utf_8_and_is_empty_stay(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    folder = tmp_path / os.fsdecode(b"photos/b\xe9")
    for name in ("a.jpg", os.fsdecode(b"\xe9.jpg")):
        _library(folder, name)
    (tmp_path / "photos" / "ü").mkdir()
    _library(tmp_path / "photos" / "ü", os.fsdecode(b"\xe9.jpg"))
    source = _library(tmp_path / "photos", "c.jpg", "d.jpg")
    _scored(store, source)
    for path in [path for path in (tmp_path / "photos").rglob("*.jpg") if path.name != "d.jpg"]:
        path.unlink()
    assert _pruner(store, source).count() == PruneCounts(1, 3, 5)


@pytest.mark.parametrize("name", ["0.tar", "0.csv"])
def test_of_tars_and_tables_in_folders_that_are_empty_now_rows_stay(tmp_path: Path, name: str) -> None:
    store = open_store(tmp_path / "out")
    disks = [tmp_path / "library" / disk for disk in ("disk1", "disk2")]

    def write(disk: Path, *images: str) -> None:
        disk.mkdir(parents=True, exist_ok=True)
        if name.endswith("tar"):
            write_tar(disk / name, dict.fromkeys(images, b"x"))
        else:
            (disk / name).write_text("\n".join(["image_id,uri", *(f"{image},/{image}" for image in images)]))

    write(disks[0], "a.jpg", "b.jpg")
    write(disks[1], "c.jpg", "d.jpg")
    for other in ("_temporary", "out"):  # Spark's, and a store: no table in them would be read
        (tmp_path / "library" / other).mkdir()
    (tmp_path / "library" / "out" / "_store.json").touch()
    source = str(tmp_path / "library")
    _scored(store, source)
    write(disks[0], "a.jpg")
    (disks[1] / name).unlink()
    assert _pruner(store, source).count() == (PruneCounts(1, 2, 4) if name.endswith("tar") else PruneCounts(0, 3, 4))
    disks[1].rmdir()
    assert _pruner(store, source).count() == PruneCounts(3, 0, 4)


def test_what_may_be_behind_the_cut_of_a_tar_stays(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    names = [f"{name}.jpg" for name in "abcd"]
    for tar in ("0.tar", "1.tar"):
        write_tar(tmp_path / "library" / tar, {name: bytes(20_000) for name in names})
    source = str(tmp_path / "library")
    _scored(store, source)
    write_tar(tmp_path / "library" / "1.tar", {name: bytes(20_000) for name in names[:3]})
    whole = (tmp_path / "library" / "0.tar").read_bytes()
    (tmp_path / "library" / "0.tar").write_bytes(whole[:50_000])  # it is being uploaded again
    assert _pruner(store, source).count() == PruneCounts(1, 2, 8)


def test_rows_of_another_source_and_of_a_wider_one_stay(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    photos = _library(tmp_path / "photos", "a.jpg", "2026/b.jpg", "2026/c.jpg")
    others = _library(tmp_path / "others", "x.jpg")
    manifest = write_manifest(tmp_path / "m.parquet", ["y", "z"])
    for number, source in enumerate((photos, others, manifest)):
        _scored(store, source, f"p{number}")
    (tmp_path / "photos" / "2026" / "c.jpg").unlink()
    assert _pruner(store, f"{photos}/2026").count() == PruneCounts(0, 6, 6)  # there it is called c.jpg
    assert _pruner(store, others).count() == PruneCounts(0, 5, 6)
    assert _pruner(store, photos).count() == PruneCounts(1, 3, 6)
    write_manifest(tmp_path / "m.parquet", ["z"])
    assert _pruner(store, manifest).count() == PruneCounts(1, 4, 6)
    assert _pruner(store, write_manifest(tmp_path / "n.parquet", ["z"])).count() == PruneCounts(0, 5, 6)


def test_what_a_pattern_or_a_part_of_a_source_does_not_name_may_still_be_there(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    source = _library(tmp_path / "photos", "a.jpg", "b.png")
    _scored(store, source)
    for manifest in (open_manifest(f"{source}/*.jpg"), open_manifest(source, ManifestOptions(limit=1))):
        with pytest.raises(UsageError, match="does not name may still be there"):
            Pruner(store, manifest)


def test_nothing_is_pruned_by_a_manifest_without_rows(tmp_path: Path) -> None:
    source = write_manifest(tmp_path / "m.parquet", ["a"])
    pq.write_table(pq.read_table(source).slice(1), source)
    with pytest.raises(ManifestError, match="has no rows"):
        _pruner(open_store(tmp_path / "out"), source)


@pytest.mark.slow
def test_a_prune_of_too_many_rows_stops_before_anything_is_done(tmp_path: Path) -> None:
    checkpoint = str(golden_checkpoint("artimuse"))
    fingerprint = fingerprint_of(identify_checkpoint(checkpoint), ARTIMUSE, DecodeOptions())
    store = open_store(tmp_path / "out", fingerprint=fingerprint)
    source = _library(tmp_path / "photos", *(f"{number}.jpg" for number in range(10)))
    _scored(store, source)
    options = ("--out", tmp_path / "out", "--checkpoint", checkpoint, "--protocol", "artimuse", "--prune")
    assert "--prune would drop 0 of 10 rows.\n" in run_artimuse("score", source, *options, "--dry-run").stdout
    for number in range(2):
        (tmp_path / "photos" / f"{number}.jpg").unlink()
    screen = run_artimuse("score", source, *options, "--dry-run").stdout
    assert f"--prune would drop 2 of 10 rows, since {source} no longer has their images." in screen
    dry = json.loads(run_artimuse("score", source, *options, "--dry-run", "--json").stdout)
    assert (dry["state"], dry["rows"]["manifest"], dry["rows"]["prunable"]) == ("finished", 8, 2)
    done = run_artimuse("score", source, *options, code=1)
    assert "would drop 2 of 10 rows (20%), more than --prune-max 10%" in done.stderr
    assert len(_ids(store)) == 10
    screen = run_artimuse("score", source, *options, "--prune-max", "20%").stdout
    assert "2 rows were dropped" in screen
    assert "rows dropped" not in screen
    assert len(_ids(store)) == 8
    assert ", 2 dropped" in run_artimuse("status", tmp_path / "out").stdout
    with pytest.raises(UsageError, match="Add --prune"):
        ScoreSettings(source, checkpoint, "out", dry_run=True)
    settings = ScoreSettings(source, checkpoint, str(tmp_path / "out"), protocol="artimuse", prune=True, prune_max=0.0)
    (tmp_path / "photos" / "5.jpg").unlink()
    with pytest.raises(RunError, match="give --prune-max 13%"):
        score(settings)
