"""What img2dataset wrote, scored as it lies, in each of its formats. See tests/golden/img2dataset/README.md."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.paths import REPO
from support.score_job import run_artimuse, run_score, table_rows

from jobs.manifest.source import open_manifest

OUTPUT = REPO / "tests" / "golden" / "img2dataset"
IDS = {
    "webdataset": ["00000.tar/000000.jpg", "00000.tar/000001.jpg", "00001.tar/000010.jpg"],
    "files": ["00000/000000.jpg", "00000/000001.jpg", "00001/000010.jpg"],
    "parquet": ["000000", "000001", "000010"],
}
URLS = {"000000": "05_gray.png", "000001": "04_rgb_37x53.jpg", "000010": "09_webp.webp"}


@pytest.mark.process
@pytest.mark.parametrize("kind", IDS)
def test_its_output_is_scored_as_it_lies(tmp_path: Path, kind: str) -> None:
    shutil.copytree(OUTPUT / kind, tmp_path / "data")
    screen = run_score(tmp_path / "data", tmp_path / "out")
    rows = table_rows(tmp_path / "out")
    assert sorted(rows) == IDS[kind]
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert "2 urls have no image, since img2dataset could not download or read it" in screen
    assert "Nothing to do" in run_score(tmp_path / "data", tmp_path / "out")


@pytest.mark.process
@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_its_columns_are_carried_through(tmp_path: Path, kind: str) -> None:
    shutil.copytree(OUTPUT / kind, tmp_path / "data")
    run_score(tmp_path / "data", tmp_path / "out")
    run_artimuse(
        "curate", tmp_path / "out", "--manifest", tmp_path / "data", "--where", "contains(caption, 'gray')",
        "--out", tmp_path / "best.parquet",
    )  # fmt: skip
    (row,) = pq.read_table(tmp_path / "best.parquet").to_pylist()
    assert row["key"] == "000000"
    assert row["url"].endswith(URLS[row["key"]])
    assert row["original_width"] == 500
    assert row["image_id"] == IDS[kind][0]


@pytest.mark.process
@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_its_images_are_copied(tmp_path: Path, kind: str) -> None:
    shutil.copytree(OUTPUT / kind, tmp_path / "data")
    run_score(tmp_path / "data", tmp_path / "out")
    run_artimuse(
        "curate", tmp_path / "out", "--manifest", tmp_path / "data", "--as", "webdataset", "--out", tmp_path / "best"
    )
    with tarfile.open(OUTPUT / "webdataset" / "00000.tar") as tar:
        first = tar.extractfile("000000.jpg")
        assert first is not None
        expected = first.read()
    with tarfile.open(tmp_path / "best" / "00000.tar") as tar:
        written = [tar.extractfile(name) for name in tar.getnames() if name.endswith(".jpg")]
        assert expected in [file.read() for file in written if file]
        assert len(written) == 3


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_each_image_has_the_columns_of_its_own_row(tmp_path: Path, kind: str) -> None:
    manifest: Any = open_manifest(str(OUTPUT / kind))
    for keys in (True, False):
        found = [row for batch in manifest.batches(["url", "key"], keys=keys) for row in batch.own.to_pylist()]
        assert {row["key"]: row["url"].rpartition("/")[2] for row in found} == URLS


@pytest.mark.process
def test_a_broken_image_among_them_is_one_row(tmp_path: Path) -> None:
    shutil.copytree(OUTPUT / "webdataset", tmp_path / "data")
    tar = tmp_path / "data" / "00000.tar"
    data = bytearray(tar.read_bytes())
    with tarfile.open(tar) as members:
        first = members.getmember("000000.jpg").offset_data
    data[first + 300 : first + 9000] = bytes(8700)
    tar.write_bytes(data)
    run_score(tmp_path / "data", tmp_path / "out")
    assert [row["status"] for _, row in sorted(table_rows(tmp_path / "out").items())] == ["error", "ok", "ok"]
