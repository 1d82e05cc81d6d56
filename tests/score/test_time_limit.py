"""Runs that end when their time is over, and what quiet ones print."""

from __future__ import annotations

import json
import shutil
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from support.golden import golden_images
from support.photo_library import make_photos
from support.score_job import golden_options, has_files, run_artimuse, run_score, table_rows

from artimuse_actor.errors import UsageError
from jobs.commands.times import duration, next_time
from jobs.score import signals

pytestmark = [pytest.mark.timeout(240), pytest.mark.process]


def test_a_run_whose_time_is_over_commits_what_it_has_says_what_is_left_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, out = make_photos(tmp_path / "photos", 24), tmp_path / "out"
    clock = time.time

    def later_when_two_units_are_staged() -> float:
        return clock() + 7200 * any(has_files(shard, 2) for shard in out.glob("_runs/*/staging/*"))

    monkeypatch.setattr(signals, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(time, "time", later_when_two_units_are_staged)
    screen = run_score(tmp_path / "photos", out, "--unit-size", "2", "--max-time", "1h30m")
    monkeypatch.undo()
    done = len(table_rows(out))
    assert 0 < done < 24
    assert f"Time is up: {24 - done} images are left." in screen
    status = json.loads(run_artimuse("status", out, "--json").stdout)
    assert status["runs"][0]["state"] == "out of time"
    assert status["rows"]["remaining"] == 24 - done

    counts = json.loads(run_score(tmp_path / "photos", out, "--unit-size", "2", "--json"))
    assert (counts["rows"]["scored"], counts["rows"]["left"], counts["state"]) == (24 - done, 0, "finished")
    assert sorted(table_rows(out)) == names


def test_a_run_whose_time_is_over_before_it_scores_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_photos(tmp_path / "photos", 2)
    clock, began = time.time, time.time()
    monkeypatch.setattr(time, "time", lambda: clock() + (7200 if clock() > began else 0))
    done = run_artimuse(
        "score", tmp_path / "photos", "--out", tmp_path / "out", *golden_options(), "--max-time", "1h", "--json"
    )
    assert json.loads(done.stdout)["state"] == "out of time"
    assert "Time is up" in done.stderr
    monkeypatch.undo()
    assert "2 of 2 images" in run_score(tmp_path / "photos", tmp_path / "out")


def test_quiet_runs_print_one_line_and_very_quiet_ones_only_news(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    shutil.copy(golden_images()[0], photos / "a.jpg")
    arguments = ("score", photos, "--out", out, *golden_options()[:2], "--local")
    done = run_artimuse(*arguments, "-qq")
    assert (done.stdout, done.stderr) == (f"{out}: 1 new; 1 rows = 1 ok + 0 failed.\n", "")
    assert run_artimuse(*arguments, "--quiet").stdout == f"{out}: nothing new; 1 rows = 1 ok + 0 failed.\n"
    done = run_artimuse(*arguments, "--quiet", "--quiet")
    assert (done.stdout, done.stderr) == ("", "")
    (photos / "b.jpg").write_bytes(b"")
    assert run_artimuse(*arguments, "-qq").stdout == f"{out}: 1 new, 1 failed (1 empty); 2 rows = 1 ok + 1 failed.\n"
    (photos / "b.jpg").unlink()
    line = run_artimuse(*arguments, "-qq", "--prune", "--prune-max", "50%").stdout
    assert line == f"{out}: 1 dropped; 1 rows = 1 ok + 0 failed.\n"


def test_durations_and_times_of_day() -> None:
    assert duration("--max-time", "1h30m") == timedelta(minutes=90) == duration("--max-time", "90m")
    assert duration("--max-time", "45s") == timedelta(seconds=45)
    for text in ("", "6", "0h", "30m1h", "-1h", "1d", "99999999999999h", f"{'9' * 5000}h"):
        with pytest.raises(UsageError, match="--max-time takes a time such as 6h, 90m or 1h30m"):
            duration("--max-time", text)
    evening, morning = datetime(2026, 12, 31, 23, 30), datetime(2027, 1, 1, 7)
    assert next_time("--until", "07:00", evening) == morning
    assert next_time("--until", "7:00", morning) == morning + timedelta(days=1)
    for text in ("", "7", "24:00", "07:60", "07:00:00", "tomorrow"):
        with pytest.raises(UsageError, match="--until takes a time of day such as 07:00"):
            next_time("--until", text, evening)
