"""Data sets of the Hugging Face hub: what `datasets` wrote, from a hub on loopback and from a disk."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.golden import golden_images
from support.loopback_hub import LoopbackHub
from support.paths import REPO
from support.score_job import run_artimuse, run_score, table_rows

from artimuse_actor.errors import ImageError, ManifestError, UsageError
from artimuse_actor.fetch.fetch import fetch
from artimuse_actor.fetch.options import FetchOptions
from jobs.manifest.manifest import ManifestOptions
from jobs.manifest.source import open_manifest

WRITTEN = REPO / "tests" / "golden" / "datasets"
PARQUET = (WRITTEN / "train-00000-of-00001.parquet").read_bytes()
pytestmark = pytest.mark.server


def ids_of(source: str, **options: Any) -> list[str]:
    batches = open_manifest(source, ManifestOptions(**options)).batches()
    return [name for batch in batches for name in batch.rows["image_id"].to_pylist()]


def photos(*names: str) -> dict[str, bytes]:
    return {name: golden_images()[number].read_bytes() for number, name in enumerate(names)}


def a_tar(files: Mapping[str, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return written.getvalue()


@pytest.mark.process
@pytest.mark.parametrize("source", ["hf://datasets/some/set", "some/set"])
def test_a_data_set_is_scored_from_the_hub_with_a_broken_image_among_them(
    tmp_path: Path, hub: LoopbackHub, source: str
) -> None:
    hub.add("some/set", {"data/train-00000-of-00001.parquet": PARQUET, "README.md": b"# Photos\n"})
    options = [] if "://" in source else ["--split", "train"]
    run_score(source, tmp_path / "out", *options)
    rows = table_rows(tmp_path / "out")
    name = "data/train-00000-of-00001.parquet"
    assert {row_id: row["status"] for row_id, row in rows.items()} == {
        f"{name}#0": "ok", f"{name}#1": "ok", f"{name}#2": "ok", f"{name}#3": "error",
    }  # fmt: skip
    assert "Nothing to do" in run_score(source, tmp_path / "out", *options)
    hub.add("some/set", {"data/train-00000-of-00001.parquet": PARQUET, "README.md": b"# Photos, described\n"})
    assert "Nothing to do" in run_score(source, tmp_path / "out", *options)  # the file is the same in the new commit
    run_artimuse(
        "curate", tmp_path / "out", "--manifest", source, *options, "--top", "1", "--out", tmp_path / "best.parquet"
    )
    (row,) = pq.read_table(tmp_path / "best.parquet").to_pylist()
    assert row["caption"].startswith("caption of")
    assert row["image"]["bytes"] in [path.read_bytes() for path in golden_images()]


@pytest.mark.process
def test_pictures_and_tars_of_the_hub_are_scored_too(tmp_path: Path, hub: LoopbackHub) -> None:
    hub.add("some/photos", photos("a.jpg", "b/c d.jpg", ".hidden.jpg"))
    run_score("hf://datasets/some/photos", tmp_path / "photos")
    rows = table_rows(tmp_path / "photos")
    assert {name: row["status"] for name, row in rows.items()} == {"a.jpg": "ok", "b/c d.jpg": "ok"}
    hub.add("some/tars", {"train/0.tar": a_tar(photos("x.jpg", "y.jpg") | {"z.jpg": b"broken"})})
    run_score("hf://datasets/some/tars/train/{0..0}.tar", tmp_path / "tars")
    rows = table_rows(tmp_path / "tars")
    assert {name: row["status"] for name, row in rows.items()} == {
        "0.tar/x.jpg": "ok", "0.tar/y.jpg": "ok", "0.tar/z.jpg": "error",
    }  # fmt: skip
    assert fetch(rows["0.tar/x.jpg"]["uri"], FetchOptions()) == golden_images()[0].read_bytes()


@pytest.mark.process
def test_a_data_set_saved_to_a_disk_is_scored(tmp_path: Path) -> None:
    run_score(WRITTEN / "disk", tmp_path / "out")
    rows = table_rows(tmp_path / "out")
    assert [row["status"] for _, row in sorted(rows.items())] == ["ok"] * 3 + ["error"]


def test_a_run_reads_the_commit_that_was_listed(hub: LoopbackHub) -> None:
    first = hub.add("some/photos", photos("a.jpg"))
    (batch,) = open_manifest("hf://datasets/some/photos").batches()
    uri = batch.rows["uri"][0].as_py()
    assert uri == f"hf://datasets/some/photos@{first}/a.jpg"
    hub.add("some/photos", {"a.jpg": b"another"})
    assert fetch(uri, FetchOptions()) == golden_images()[0].read_bytes()
    assert fetch("hf://datasets/some/photos/a.jpg", FetchOptions()) == b"another"
    hub.add("some/photos", photos("b.jpg"), revision="refs/pr/1")
    assert ids_of("hf://datasets/some/photos@refs%2Fpr%2F1") == ["b.jpg"]
    assert ids_of(f"hf://datasets/some/photos@{first}") == ["a.jpg"]


@pytest.mark.process
def test_a_commit_that_changes_all_pictures_is_no_other_library(tmp_path: Path, hub: LoopbackHub) -> None:
    hub.add("some/photos", photos("a.jpg", "b.jpg"))
    run_score("hf://datasets/some/photos", tmp_path / "out")
    hub.add("some/photos", dict(zip(("b.jpg", "a.jpg"), photos("0", "1").values(), strict=True)))
    run_score("hf://datasets/some/photos", tmp_path / "out")
    assert sorted(table_rows(tmp_path / "out")) == ["a.jpg", "b.jpg"]


FILES = {
    **dict.fromkeys(("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"), PARQUET),
    "data/test-00000-of-00001.parquet": PARQUET,
    "big/train/0000.parquet": PARQUET,
}
README = b"""---
configs:
- config_name: small
  data_files:
  - {split: train, path: "data/train-*"}
  - {split: test, path: ["data/test-*"]}
- config_name: big
  data_files: big/**/*.parquet
---
# Photos
"""


@pytest.mark.parametrize(
    ("source", "options", "rows"),
    [
        ("hf://datasets/some/set", {}, 16),
        ("hf://datasets/some/set/data", {}, 12),
        ("hf://datasets/some/set/data/*-00000-*", {}, 8),
        ("hf://datasets/some/set/**/train*", {}, 8),
        ("hf://datasets/some/set/data/{test,train}-00000-of-00001.parquet", {}, 4),
        ("some/set", {"split": "train"}, 12),
        ("some/set", {"split": "test"}, 4),
        ("some/set", {"split": "train", "hf_config": "big"}, 4),
        ("hf://datasets/some/set/data", {"split": "train"}, 8),
    ],
)
def test_files_are_chosen_by_path_configuration_and_split(
    hub: LoopbackHub, source: str, options: dict[str, Any], rows: int
) -> None:
    hub.add("some/set", FILES)
    assert len(ids_of(source, **options)) == rows


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"hf_config": "small", "split": "train"}, 8),
        ({"hf_config": "small"}, 12),
        ({"hf_config": "big", "split": "train"}, 4),
    ],
)
def test_the_readme_says_what_a_configuration_is(hub: LoopbackHub, options: dict[str, Any], rows: int) -> None:
    hub.add("some/set", FILES | {"README.md": README})
    assert len(ids_of("some/set", **options)) == rows
    for wrong, sentence in (
        ({"split": "train"}, "has the configurations small, big. Choose one with --hf-config"),
        ({"hf_config": "tiny"}, "has no configuration 'tiny', but small, big"),
        ({"hf_config": "small", "split": "val"}, "has no split 'val', but train, test"),
    ):
        with pytest.raises(UsageError, match=sentence):
            ids_of("some/set", **wrong)


def test_what_the_hub_does_not_have_is_a_sentence(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.add("some/set", FILES)
    hub.add("some/gated", FILES)
    hub.repositories["some/gated"].access = "gated"
    for source, sentence in (
        ("hf://datasets/some/nothing", "has no such data set, or it is private"),
        ("hf://datasets/some/set@v9", "no branch, tag or commit 'v9'"),
        ("hf://datasets/some/set/nowhere", "nothing of this name in the data set at"),
        ("some/set", "no such file or folder. A data set on the hub is hf://datasets/some/set, or this with --split"),
    ):
        with pytest.raises(ManifestError, match=sentence):
            open_manifest(source)
    for source, split in (("hf://models/some/set", None), (str(tmp_path), "train")):
        with pytest.raises(UsageError, match="hf://datasets/"):
            open_manifest(source, ManifestOptions(split=split))
    with pytest.raises(ManifestError, match="no file is of the configuration 'default' and the split 'val'"):
        open_manifest("some/set", ManifestOptions(split="val"))
    gated = f"hf://datasets/some/gated/{next(iter(FILES))}"
    with pytest.raises(ImageError, match="not permitted"):
        fetch(gated, FetchOptions())
    hub.stop()
    with pytest.raises(ManifestError, match=r"the hub cannot be read: .*HF_ENDPOINT"):
        open_manifest("hf://datasets/some/set")


def test_a_token_is_sent_to_the_hub(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("some/gated", photos("a.jpg"))
    hub.repositories["some/gated"].access = "gated"
    monkeypatch.setenv("HF_TOKEN", hub.repositories["some/gated"].token)
    assert fetch("hf://datasets/some/gated/a.jpg", FetchOptions()) == golden_images()[0].read_bytes()
