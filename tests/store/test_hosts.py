"""Hosts that share a disk and do not see each other's locks, as on NFS with `local_lock`."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from support.paths import REPO
from support.trial import Trial

from artimuse_actor.errors import StoreError, StoreLocked
from jobs.storage import local_place
from jobs.storage.local_place import LocalPlace
from jobs.store.lock import STALE_AFTER_S, run_lock

OTHER_HOST = """
import sys
from unittest.mock import patch
from support.trial import Trial

trial = Trial(sys.argv[1])
for name in "abcdef":
    trial.library.put(name, f"{name} of the other host".encode())
with (
    patch("jobs.storage.local_place.fcntl.flock", lambda *_: None),
    patch("jobs.store.lock.socket.gethostname", lambda: "other"),
    patch("jobs.store.lock._process_space", lambda: "another-boot pid:[1]"),
):
    trial.run()
"""


@contextmanager
def _on(host: str) -> Iterator[None]:
    """This process is on that host, whose locks no other host sees."""
    with (
        patch("jobs.storage.local_place.fcntl.flock", lambda *_: None),
        patch("jobs.store.lock.socket.gethostname", lambda: host),
        patch("jobs.store.lock._process_space", lambda: f"boot-of-{host} pid:[1]"),
    ):
        yield


def _grow_old(lock: Path) -> None:
    long_ago = time.time() - STALE_AFTER_S - 60
    os.utime(lock, (long_ago, long_ago))


def test_a_lock_of_another_host_counts_until_it_is_old_by_the_clock_of_the_disk(tmp_path: Path) -> None:
    place = LocalPlace(str(tmp_path))
    with _on("first"), run_lock(place, "run-1") as first:
        with (
            _on("second"),
            pytest.raises(StoreLocked, match=r"run run-1 \(process \d+ on first\)"),
            run_lock(place, "run-2"),
        ):
            pass
        first.check()
        _grow_old(tmp_path / "_lock")  # its host was suspended
        with _on("second"), run_lock(place, "run-2") as second:
            second.check()
            with _on("first"), pytest.raises(StoreLocked, match="run run-2 on second has taken the lock over"):
                place.fenced(first.check).write("scores/a.parquet", b"")
            assert not (tmp_path / "scores").exists()
    assert place.read("_lock") == b""


def test_a_disk_without_locks_is_refused_with_a_sentence(tmp_path: Path) -> None:
    no_locks = OSError(errno.ENOLCK, "No locks available")
    place = LocalPlace(str(tmp_path))
    with (
        patch("jobs.storage.local_place.fcntl.flock", side_effect=no_locks),
        pytest.raises(
            StoreError, match=rf"{tmp_path}/_lock: cannot be locked .*No locks available.*choose another --out"
        ),
        run_lock(place, "run-1"),
    ):
        pass


def test_a_release_leaves_the_lock_of_another_host(tmp_path: Path) -> None:
    place = LocalPlace(str(tmp_path))
    with _on("first"), run_lock(place, "run-1"):
        place.write("_lock", json.dumps({"run_id": "run-2", "host": "second"}).encode())
    assert b"run-2" in place.read("_lock")


def test_a_lock_left_by_a_dead_process_of_this_host_is_free_at_once(tmp_path: Path) -> None:
    place = LocalPlace(str(tmp_path))
    with _on("first"), run_lock(place, "run-1") as lock:
        owner = lock.owner()
    place.write("_lock", owner)
    with _on("first"), run_lock(place, "run-2"):
        pass


def test_the_owner_renews_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.store.lock.RENEW_EVERY_S", 0.01)
    place = LocalPlace(str(tmp_path))
    with run_lock(place, "run-1"):
        _grow_old(tmp_path / "_lock")
        deadline = time.monotonic() + 30
        while place._age_s("_lock") > STALE_AFTER_S and time.monotonic() < deadline:
            time.sleep(0.01)
        assert place._age_s("_lock") < STALE_AFTER_S


def test_a_file_that_another_host_wrote_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = LocalPlace(str(tmp_path))
    place.write("scores/a.parquet", b"old")
    version = place.read_version("scores/a.parquet")
    assert version is not None
    write = local_place._write

    def slowly(path: str, data: bytes) -> None:
        monkeypatch.setattr(local_place, "_write", write)
        write(path, data)
        place.write("scores/a.parquet", b"by the other")

    monkeypatch.setattr(local_place, "_write", slowly)
    assert not place.swap("scores/a.parquet", b"late", version[1])
    assert place.read("scores/a.parquet") == b"by the other"
    assert os.listdir(tmp_path / "_runs" / "tmp") == []


@pytest.mark.process
@pytest.mark.slow
def test_a_run_whose_store_another_host_has_taken_over_commits_nothing_more(tmp_path: Path) -> None:
    """A run of another process, between two changes of this one."""
    trial = Trial(str(tmp_path / "out"))
    for name in "abcdef":
        trial.library.put(name, name.encode())
    rows: list[dict[str, object]] = []

    def other() -> None:
        _grow_old(tmp_path / "out" / "_lock")
        environment = os.environ | {"PYTHONPATH": f"{REPO}:{REPO / 'tests'}"}
        subprocess.run([sys.executable, "-c", OTHER_HOST, trial.root], check=True, env=environment)
        rows.extend(trial.rows("scores"))

    trial.faults.arm(8, other)
    with _on("first"), patch.object(Trial, "look", lambda _: {}), pytest.raises(StoreLocked):
        trial.run()
    assert sorted(str(row["image_id"]) for row in rows) == list("abcdef")
    assert trial.rows("scores") == rows
