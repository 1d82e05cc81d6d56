"""A photo library night after night, through the command: only what is new costs anything."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
from support.golden import golden_answers
from support.paths import GOLDEN
from support.score_job import run_artimuse, run_score, table_rows

from jobs.code_identity import this_code, this_commit

pytestmark = pytest.mark.timeout(240)

IMAGES = GOLDEN / "artimuse" / "images"
SCORES = {answer["image"]: answer["scores"]["score"]["score"] for answer in golden_answers("artimuse")}


@pytest.mark.process
def test_a_week_of_nights(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    shutil.copytree(IMAGES, photos)
    locked = photos / "locked"
    locked.mkdir()
    (locked / "behind.jpg").symlink_to(tmp_path / "later.jpg")
    run_score(photos, out)
    assert table_rows(out)["locked/behind.jpg"]["error_type"] == "missing"
    (run,) = (json.loads(path.read_text()) for path in out.glob("_runs/*/run.json"))
    assert json.loads((out / "_store.json").read_text())["fingerprint"] == run["fingerprint"]
    assert run["fingerprint"]["precision"] == "float32"
    assert (run["sources"], run["commit"]) == (this_code().sources, this_commit())
    assert run["versions"]["scipy"] == version("scipy")
    (load,) = run["loads"]
    made_by = [load[name] for name in ("processor", "driver", "dtype", "attention")]
    assert made_by == ["CPU", None, "float32", "GatheredPages"]
    assert load["batch_size"] == 2

    # Pictures move, one is copied, one changes, one goes, and a disk is mounted again.
    (photos / "2026").mkdir()
    for name in ("00_rgb_448x448.jpg", "05_gray.png"):
        shutil.move(photos / name, photos / "2026" / name)
    shutil.copy(photos / "06_palette.png", photos / "copy of 06_palette.png")
    shutil.copy(IMAGES / "02_rgb_300x900.jpg", photos / "01_rgb_640x480.jpg")
    (photos / "08_cmyk.jpg").unlink()
    shutil.copy(IMAGES / "09_webp.webp", tmp_path / "later.jpg")
    screen = run_score(photos, out, "--retry-errors", "missing")
    assert "1 of 14 images" in screen
    rows = table_rows(out)
    assert len(rows) == 14
    assert rows["locked/behind.jpg"]["score"] == pytest.approx(SCORES["09_webp.webp"], abs=1e-3)
    assert rows["locked/behind.jpg"]["copied_from"] == "09_webp.webp"
    assert rows["locked/behind.jpg"]["run_id"] == rows["09_webp.webp"]["run_id"]  # which made the score
    assert rows["locked/behind.jpg"]["scored_at"] > rows["09_webp.webp"]["scored_at"]
    screen = run_score(photos, out, "--retry-errors", "missing")  # there are new pictures, which it leaves for later
    assert f"Nothing to do: no failed row of {out} that {photos} names is to be tried again." in screen

    screen = run_score(photos, out, "--prune", "--prune-max", "25%")
    assert "4 of them have the same bytes as others" in screen
    assert "3 rows were dropped" in screen
    rows = table_rows(out)
    assert "08_cmyk.jpg" not in rows
    assert "00_rgb_448x448.jpg" not in rows
    for name, same, source in (
        ("2026/00_rgb_448x448.jpg", "00_rgb_448x448.jpg", "00_rgb_448x448.jpg"),
        ("2026/05_gray.png", "05_gray.png", "05_gray.png"),
        ("copy of 06_palette.png", "06_palette.png", "06_palette.png"),
        ("01_rgb_640x480.jpg", "02_rgb_300x900.jpg", "02_rgb_300x900.jpg"),
    ):
        assert rows[name]["copied_from"] == source
        assert rows[name]["score"] == pytest.approx(SCORES[same], abs=1e-3)
        assert rows[name]["width"] is not None
    assert "Nothing to do" in run_score(photos, out, "--prune", "--prune-max", "25%")
    assert json.loads(run_artimuse("status", out, "--json").stdout)["reconciled"] is True

    # Compacted, the library goes on in the new store.
    run_artimuse("compact", out, "--out", tmp_path / "new")
    assert table_rows(tmp_path / "new") == rows
    assert "Nothing to do" in run_score(photos, tmp_path / "new")


def test_types_of_errors_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    for arguments in (["--retry-errors=nonsense"], ["--retry-errors=missing,nonsense"]):
        done = run_artimuse("score", tmp_path, "--out", tmp_path / "out", *arguments, code=2)
        assert "there are no errors of type 'nonsense'. Types are all, bad_row, missing, " in done.stderr


def test_a_bare_retry_errors_is_refused_and_takes_no_source_for_a_type(tmp_path: Path) -> None:
    done = run_artimuse("score", "--retry-errors", tmp_path, "--out", tmp_path / "out", code=2)
    assert "Missing argument 'SOURCE'" in done.stderr
    done = run_artimuse("score", tmp_path, "--out", tmp_path / "out", "--retry-errors", code=2)
    assert "'--retry-errors' requires an argument" in done.stderr
