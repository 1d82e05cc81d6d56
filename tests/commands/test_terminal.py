"""Names from strangers on the screen: none of them can drive the terminal."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.golden import golden_images
from support.score_job import run_artimuse
from support.scored_stores import write_store

from jobs.words import printable

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b1m\r\u202e"


def is_harmless(screen: str) -> bool:
    return all(mark.isprintable() or mark == "\n" for mark in screen)


def test_names_of_folders_and_suffixes_do_not_drive_the_terminal(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(golden_images()[0].read_bytes())
    (photos / f"a.{EVIL}\nall images are in scored already").touch()
    (photos / f"link{EVIL}").symlink_to(tmp_path)
    done = run_artimuse("manifest", photos, "--out", tmp_path / "m.parquet")
    assert is_harmless(done.stdout + done.stderr)
    assert r"1 .\x1b]0;owned\x07\x1b[2j\x9b1m\r\u202e\nall images are in scored already" in done.stderr
    assert f"not looked into: {photos}/link{printable(EVIL)} (a link)." in done.stderr


@pytest.mark.parametrize("command", ["score", "manifest", "evaluate", "curate"])
def test_names_of_columns_do_not_drive_the_terminal(tmp_path: Path, command: str) -> None:
    pq.write_table(pa.table({f"image_id{EVIL}": ["a"], "score": [1.0]}), tmp_path / "m.parquet")
    write_store(tmp_path / "store", [{"image_id": "a"}])
    arguments: dict[str, list[str | Path]] = {
        "score": [tmp_path / "m.parquet", "--checkpoint", tmp_path, "--out", tmp_path / "out"],
        "manifest": [tmp_path / "m.parquet", "--out", tmp_path / "new.parquet"],
        "evaluate": [tmp_path / "store", "--ground-truth", tmp_path / "m.parquet", "--truth-column", "mos"],
        "curate": [tmp_path / "store", "--manifest", tmp_path / "m.parquet", "--out", tmp_path / "best.parquet"],
    }
    done = run_artimuse(command, *arguments[command], code=1)
    assert is_harmless(done.stdout + done.stderr)


def test_a_store_from_elsewhere_does_not_drive_the_terminal(tmp_path: Path) -> None:
    names = [f"{EVIL}{number}" for number in range(2)]
    write_store(tmp_path / "store", [{"image_id": name, "format": EVIL} for name in names])
    table = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image_id": names, "uri": names, "mos": [1, 2], EVIL: [EVIL] * 2}), table)
    truth = ("--ground-truth", table, "--truth-column", "mos")
    chosen = ("--manifest", table, "--per", EVIL, "--top", "1", "--out", tmp_path / "best.parquet")
    for command, *options in (["evaluate", *truth, "--by", EVIL], ["curate", *chosen]):
        done = run_artimuse(str(command), tmp_path / "store", *map(str, options))
        assert is_harmless(done.stdout + done.stderr)
        assert r"\x1b]0;owned" in done.stdout
