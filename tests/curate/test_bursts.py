"""`--best-of burst`: pictures that one camera took within moments and that look alike."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image
from support.photo_library import make_photos
from support.score_job import run_artimuse, run_score, table_rows
from support.scored_stores import write_store

NOON = datetime(2026, 11, 23, 12)
SEA, TOWN = "00000000ffffffff", "ffffffff00000000"


def _picture(name: str, after_s: float | None, score: float, phash: str | None = SEA, camera: str | None = "R5") -> Any:
    taken_at = None if after_s is None else NOON + timedelta(seconds=after_s)
    return {"image_id": name, "score": score, "taken_at": taken_at, "camera": camera, "phash": phash}


def _kept(folder: Path, rows: list[Any], *options: str) -> tuple[list[str], str]:
    write_store(folder / "out", rows, shard_rows=4)
    done = run_artimuse("curate", folder / "out", "--best-of", "burst", *options, "--out", folder / "best.parquet")
    return sorted(pq.read_table(folder / "best.parquet")["image_id"].to_pylist()), done.stdout


@pytest.mark.slow
def test_of_a_burst_the_best_of_each_view_stays(tmp_path: Path) -> None:
    rows = [
        _picture("a1", 0, 50, "00000000fffffff0"),  # a burst: from one to the next at most 2 s
        _picture("a2", 1.5, 70),
        _picture("a3", 3.5, 60, "000fffffffffffff"),  # 20 bits from a2
        _picture("a4", 4.0, 40, TOWN),  # another subject
        _picture("a5", 5.0, 30, "fffffff000000000"),
        _picture("later", 7.1, 20),
        _picture("other camera", 1.5, 10, camera="Z 8"),
        _picture("no camera 1", 1.5, 10, camera=None),
        _picture("no camera 2", 1.6, 15, camera=None),
        _picture("no time", None, 10),
        _picture("no hash", 1.6, 10, None),
    ]
    kept, screen = _kept(tmp_path, rows)
    assert kept == ["a2", "a4", "later", "no camera 2", "no hash", "no time", "other camera"]
    assert "--best-of burst --within 2s" in screen
    assert "1 rows have no taken_at, and are of no burst." in screen
    groups = pq.read_table(tmp_path / "best.parquet.groups.parquet").to_pylist()
    assert [(row["kept_image_id"], row["image_id"], row["distance"]) for row in groups] == [
        ("a2", "a3", 20),
        ("a2", "a1", 4),
        ("a4", "a5", 4),
        ("no camera 2", "no camera 1", 0),
    ]
    assert "later" not in _kept(tmp_path, rows, "--within", "3s")[0]
    assert _kept(tmp_path, rows, "--dedupe", "exact", "--top", "1")[0] == ["a2"]


def test_more_pictures_in_a_row_than_a_burst_has_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.curate.bursts.LARGEST", 2)
    scans = [_picture(f"scan {number}", 0, number, camera=None) for number in range(3)]
    kept, screen = _kept(tmp_path, [*scans, _picture("a1", 0, 50), _picture("a2", 1, 60)])
    assert kept == ["a2", "scan 0", "scan 1", "scan 2"]
    assert "3 rows are more than 2 in a row, as scans of one time are, and are of no burst." in screen


def test_libraries_without_times_have_no_bursts(tmp_path: Path) -> None:
    kept, screen = _kept(tmp_path, [_picture(f"{number}", None, number) for number in range(3)])
    assert kept == ["0", "1", "2"]
    assert "3 rows have no taken_at" in screen


@pytest.mark.process
def test_a_camera_s_files_are_grouped_by_what_was_scored(tmp_path: Path) -> None:
    names = make_photos(tmp_path / "photos", 2)
    with Image.open(tmp_path / "photos" / names[0]) as image:
        for number in range(3):
            exif = Image.Exif()
            exif[ExifTags.Base.Model] = "X-T5"
            exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = f"2026:11:23 12:00:0{number}"
            image.save(tmp_path / "photos" / f"burst{number}.jpg", exif=exif, quality=90 - number)
    run_score(tmp_path / "photos", tmp_path / "out")
    rows = table_rows(tmp_path / "out")
    assert (rows["burst2.jpg"]["taken_at"], rows["burst2.jpg"]["camera"]) == (NOON.replace(second=2), "X-T5")
    assert rows[names[1]]["taken_at"] is None
    run_artimuse("curate", tmp_path / "out", "--best-of", "burst", "--out", tmp_path / "best.jsonl")
    kept = [line for line in (tmp_path / "best.jsonl").read_text().splitlines() if "burst" in line]
    assert len(kept) == 1
    assert '"taken_at": "2026-11-23 12:00:0' in kept[0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--within", "2s"], "--within is about bursts. Add --best-of burst."),
        (["--best-of", "day"], "--best-of takes burst, not 'day'."),
        (["--best-of", "burst", "--within", "two"], "--within takes a time such as 6h, 90m or 1h30m, not 'two'."),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: list[str], sentence: str) -> None:
    write_store(tmp_path / "out", [_picture("a", 0, 50)])
    assert sentence in run_artimuse("curate", tmp_path / "out", "--out", tmp_path / "b.csv", *options, code=2).stderr
