"""A process that is stopped right before a PUT of a commit, on a real S3 server, and wakes after another run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.paths import REPO
from support.trial import Trial

from jobs.storage.s3_place import s3_filesystem

DRIVER = """
import os, signal, sys
from unittest.mock import patch
from jobs.storage.s3_place import S3Place
from support.trial import Trial

root, folder, marker, before = sys.argv[1:]
trial = Trial(root)
trial.texts = True
for name in "abcd":
    trial.library.put(name, name.encode())
if before == "scored":
    trial.run()
    trial.library.put("a", b"changed")
put = S3Place.put_if

def stopping(place, path, data, version):
    if path.startswith(folder) and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGSTOP)
    return put(place, path, data, version)

with patch.object(S3Place, "put_if", stopping):
    trial.run()
"""
STOPS = [("texts/", "new"), ("scores/", "new"), ("scores/", "scored"), ("_plan.json", "new")]


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_stopped_process_commits_nothing_after_another_run_has_taken_its_lock_over(
    tmp_path: Path, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_filesystem().mkdir("suspended")
    roots = [f"s3://suspended/{number}" for number in range(len(STOPS))]
    markers = [tmp_path / str(number) for number in range(len(STOPS))]
    environment = os.environ | {"PYTHONPATH": f"{REPO}:{REPO / 'tests'}"}
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", DRIVER, root, folder, str(marker), before],
            stderr=subprocess.PIPE, env=environment, text=True,
        )
        for root, marker, (folder, before) in zip(roots, markers, STOPS, strict=True)
    ]  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not all(marker.exists() for marker in markers) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert all(driver.poll() is None for driver in drivers), [d.communicate()[1] for d in drivers if d.poll()]
        time.sleep(3)  # a server's times are in whole seconds
        monkeypatch.setattr("jobs.store.lock.STALE_AFTER_S", 1.5)
        monkeypatch.setattr("jobs.store.lock._process_space", lambda: "another machine")
        for root, driver in zip(roots, drivers, strict=True):
            trial = Trial(root)
            trial.texts = True
            for name in "abcde":
                trial.library.put(name, f"{name} of the other run".encode())
            trial.run()
            after = {file.path: file.version for file in trial.place.files("")}
            driver.send_signal(signal.SIGCONT)
            _, errors = driver.communicate(timeout=60)
            assert driver.returncode != 0
            assert "taken the lock over" in errors
            now = {file.path: file.version for file in trial.place.files("")}
            mine = {path for path in now if path.startswith(("scores/", "texts/", "_plan.json", "_store.json"))}
            assert {path: now[path] for path in mine} == {path: after.get(path) for path in mine}
            assert sorted(row["image_id"] for row in trial.rows("scores")) == list("abcde")
            assert trial.run().was_finished
    finally:
        for driver in drivers:
            driver.kill()
            driver.wait()
