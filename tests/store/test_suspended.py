"""A process that is stopped right before a PUT of a commit, on a real S3 server, and wakes after another run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.paths import REPO
from support.trial import Trial

from jobs.storage.s3_place import s3_filesystem

DRIVER = """
import json, os, signal, sys, traceback
from unittest.mock import patch
from jobs.storage.s3_place import S3Place
from support.trial import Trial

def work(root, folder, marker, before):
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
            with open(marker, "w") as file:
                file.write(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
        return put(place, path, data, version)

    with patch.object(S3Place, "put_if", stopping):
        trial.run()

children = {}
for stop in json.loads(sys.argv[1]):
    if child := os.fork():  # what they import, they import once
        children[child] = stop[2]
        continue
    try:
        work(*stop)
    except BaseException:
        with open(f"{stop[2]}.said", "w") as said:
            traceback.print_exc(file=said)
    os._exit(0)
while children:
    child = os.wait()[0]
    open(f"{children.pop(child)}.ended", "w").close()
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
    stops = [
        (root, folder, str(marker), before)
        for root, marker, (folder, before) in zip(roots, markers, STOPS, strict=True)
    ]
    environment = os.environ | {"PYTHONPATH": f"{REPO}:{REPO / 'tests'}"}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, json.dumps(stops)], env=environment)
    try:
        _wait_for(lambda: all(marker.exists() and marker.read_text() for marker in markers))
        time.sleep(3)  # a server's times are in whole seconds
        monkeypatch.setattr("jobs.store.lock.STALE_AFTER_S", 1.5)
        monkeypatch.setattr("jobs.store.lock._process_space", lambda: "another machine")
        for root, marker in zip(roots, markers, strict=True):
            trial = Trial(root)
            trial.texts = True
            for name in "abcde":
                trial.library.put(name, f"{name} of the other run".encode())
            trial.run()
            after = {file.path: file.version for file in trial.place.files("")}
            os.kill(int(marker.read_text()), signal.SIGCONT)
            _wait_for(marker.with_suffix(".ended").exists)
            assert "taken the lock over" in marker.with_suffix(".said").read_text()
            now = {file.path: file.version for file in trial.place.files("")}
            mine = {path for path in now if path.startswith(("scores/", "texts/", "_plan.json", "_store.json"))}
            assert {path: now[path] for path in mine} == {path: after.get(path) for path in mine}
            assert sorted(row["image_id"] for row in trial.rows("scores")) == list("abcde")
            assert trial.run().was_finished
        assert driver.wait(timeout=60) == 0
    finally:
        for marker in markers:
            if marker.exists() and not marker.with_suffix(".ended").exists():
                os.kill(int(marker.read_text()), signal.SIGKILL)
        driver.kill()
        driver.wait()


def _wait_for(is_time: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_time():
        assert time.monotonic() < deadline
        time.sleep(0.1)
