"""Sources that go away while a run reads them, and nights on which no image needs a model."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.photo_library import make_photos
from support.score_job import golden_options, run_artimuse, run_score, table_rows
from support.stores import FINGERPRINT, write_manifest

from artimuse_actor.errors import RunError
from jobs.score import run as run_module
from jobs.score.breaker import MOST_IN_A_ROW, Breaker
from jobs.score.settings import ScoreResult
from jobs.store.counts import Counts

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


def _receipt(unit: int, *errors: str, rows: int = 16) -> dict[str, Any]:
    return {"shard": 0, "unit": unit, "rows": rows, "error_types": list(errors)}


def test_units_of_which_nothing_could_be_read_wait_for_one_that_shows_the_source(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    dropped: list[list[tuple[int, int]]] = []
    breaker = Breaker(str(tmp_path), dropped.append)
    assert breaker.admit(_receipt(0)) == [(0, 0)]
    assert breaker.admit(_receipt(1, *["missing"] * 16)) == []
    assert breaker.admit(_receipt(2, *["forbidden"] * 16)) == []
    assert breaker.admit(_receipt(3, *["missing"] * 15)) == [(0, 1), (0, 2), (0, 3)]
    assert breaker.admit(_receipt(4, *["corrupt"] * 16)) == [(0, 4)]
    for unit in range(MOST_IN_A_ROW // 16 - 1):
        assert breaker.admit(_receipt(unit, *["fetch_failed"] * 16)) == []
    with pytest.raises(RunError, match=r"has gone away: .* \(64 fetch_failed\)\. None of these images was committed"):
        breaker.admit(_receipt(9, *["fetch_failed"] * 16))
    assert dropped == [[(0, 0), (0, 1), (0, 2), (0, 9)]]


def test_a_folder_that_is_no_longer_there_stops_the_run_at_the_first_missing_image(tmp_path: Path) -> None:
    for root in (tmp_path / "unmounted", tmp_path / "gone"):
        dropped: list[list[tuple[int, int]]] = []
        (tmp_path / "unmounted").mkdir(exist_ok=True)
        with pytest.raises(RunError, match=r"has gone away: .* is empty or not there now \(1 missing\)\."):
            Breaker(str(root), dropped.append).admit(_receipt(0, "missing"))
        assert dropped == [[(0, 0)]]
    assert Breaker(None, dropped.append).admit(_receipt(0, *["missing"] * 16)) == [(0, 0)]


@pytest.mark.parametrize("root", ["s3://bucket/photos", "hf://datasets/owner/name"])
def test_whether_a_server_has_gone_away_many_images_say_and_no_folder_of_this_machine(root: str) -> None:
    breaker = Breaker(root, lambda _: None)
    assert breaker.admit(_receipt(0, "missing")) == [(0, 0)]
    assert breaker.admit(_receipt(1, *["missing"] * 16)) == []
    with pytest.raises(RunError, match=rf"{root} has gone away: .*one after the other \(64 missing\)"):
        breaker.admit(_receipt(2, *["missing"] * 48, rows=48))


def test_a_disk_that_goes_away_leaves_no_row_and_the_next_run_scores_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = make_photos(tmp_path / "photos", 6)
    options = ("score", tmp_path / "photos", "--out", tmp_path / "out", "--unit-size", "2", *golden_options())
    monkeypatch.setattr(
        run_module, "_refuse_missing_buckets", lambda *_: (tmp_path / "photos").rename(tmp_path / "away")
    )
    done = run_artimuse(*options, code=1)
    assert f"{tmp_path}/photos has gone away" in done.stderr
    assert not list((tmp_path / "out").glob("scores/*"))
    assert not list((tmp_path / "out").glob("_runs/*/staging/*/*"))
    monkeypatch.undo()
    (tmp_path / "away").rename(tmp_path / "photos")
    run_artimuse(*options)
    assert {name: row["status"] for name, row in table_rows(tmp_path / "out").items()} == dict.fromkeys(names, "ok")


def test_an_image_that_was_listed_and_is_gone_when_it_is_read_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = make_photos(tmp_path / "photos", 3)
    photo = (tmp_path / "photos" / names[1]).read_bytes()
    monkeypatch.setattr(
        run_module, "_refuse_missing_buckets", lambda *_: (tmp_path / "photos" / names[1]).unlink(missing_ok=True)
    )
    run_score(tmp_path / "photos", tmp_path / "out")
    row = table_rows(tmp_path / "out")[names[1]]
    assert (row["error_type"], row["retryable"]) == ("missing", True)
    monkeypatch.undo()
    (tmp_path / "photos" / names[1]).write_bytes(photo)
    run_score(tmp_path / "photos", tmp_path / "out")
    assert table_rows(tmp_path / "out")[names[1]]["status"] == "ok"


def test_a_run_that_could_read_nothing_ends_with_a_code_of_its_own(tmp_path: Path) -> None:
    source = write_manifest(tmp_path / "m.parquet", [str(tmp_path / name) for name in "abc"])
    options = ("score", source, "--out", tmp_path / "out", *golden_options())
    assert "see --max-failed" in run_artimuse(*options, code=3).stderr
    run_artimuse(*options)  # these are final errors, so the second run has nothing to do
    done = run_artimuse(*options, "--max-failed", "half", code=2)
    assert "--max-failed takes a percentage from 0% to 100%, not 'half'" in done.stderr


@pytest.mark.parametrize(
    ("most", "errors", "is_too_many"),
    [
        (None, {}, False),
        (None, {"corrupt": 10}, False),
        (None, {"fetch_failed": 9}, False),
        (None, {"fetch_failed": 9, "missing": 1}, True),
        (0.05, {"fetch_failed": 1}, True),
        (0.1, {"fetch_failed": 1}, False),
        (1.0, {"fetch_failed": 10}, False),
    ],
)
def test_too_many_failures_are_of_images_that_could_not_be_read(
    most: float | None, errors: dict[str, int], is_too_many: bool
) -> None:
    record: Any = type("Record", (), {"scored_rows": 10, "described_rows": 0})
    result = ScoreResult(record, FINGERPRINT, Counts(), Counter(errors), [], None, None, was_finished=False)  # type: ignore[arg-type]
    assert result.failed_too_many(most) is is_too_many


def test_a_night_of_moved_doubled_and_damaged_pictures_starts_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    names = make_photos(photos, 4)
    run_score(photos, tmp_path / "out")
    before = table_rows(tmp_path / "out")
    (photos / names[0]).rename(photos / "moved.jpg")
    shutil.copy(photos / names[1], photos / "doubled.jpg")
    (photos / names[2]).write_bytes((photos / names[2]).read_bytes()[:200])
    (photos / "text.jpg").write_text("Dear diary,")

    def score_with_model(*_: object) -> None:
        raise AssertionError("a model was started")

    monkeypatch.setattr(run_module, "_score_with_model", score_with_model)
    run_score(photos, tmp_path / "out")
    rows = table_rows(tmp_path / "out")
    assert rows["moved.jpg"]["score"] == before[names[0]]["score"]
    assert (rows["doubled.jpg"]["copied_from"], rows["text.jpg"]["error_type"]) == (names[1], "not_an_image")
    assert rows[names[2]]["error_type"] == "truncated"
    monkeypatch.undo()
    make_photos(tmp_path / "more", 6)
    for name in ("0004.jpg", "0005.jpg"):
        shutil.copy(tmp_path / "more" / name, photos / name)
    (photos / names[3]).rename(photos / "moved too.jpg")
    run_score(photos, tmp_path / "out", "--unit-size", "1")
    rows = table_rows(tmp_path / "out")
    assert {rows[name]["status"] for name in ("0004.jpg", "0005.jpg", "moved too.jpg")} == {"ok"}
    assert rows["moved too.jpg"]["copied_from"] == names[3]
