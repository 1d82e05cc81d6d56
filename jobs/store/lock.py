"""One run at a time for each store.

On a disk the lock is the kernel's (`flock`), which lets go when its owner dies, however it dies. On S3 it is an object
made with a conditional PUT, kept fresh by its owner; one that was not renewed for minutes has no owner any more, and is
taken over by another conditional PUT, so that of several runs one gets it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from artimuse_actor.errors import StoreError, StoreLocked
from jobs.storage.place import Place, S3Place

LOCK_FILE: Final = "_lock"
RENEW_EVERY_S: Final = 30.0
STALE_AFTER_S: Final = 300.0


class RunLock:
    """The lock of a run.

    Attributes:
        lost: whether another run has taken it over meanwhile, as after a suspension of this machine.
    """

    def __init__(self, root: str) -> None:
        """Held from the start."""
        self.lost = False
        self._root = root

    def check(self) -> None:
        """Call it before a shard is committed.

        Raises:
            StoreLocked: the lock is lost, and another run may be writing.
        """
        if self.lost:
            raise StoreLocked(
                f"{self._root}: another run has taken the lock over, since this one did not renew it for "
                f"{STALE_AFTER_S:.0f} s. What was committed stays; run again when the other has ended."
            )


@contextmanager
def run_lock(place: Place, run_id: str) -> Iterator[RunLock]:
    """Hold the store's lock.

    Raises:
        StoreLocked: another run holds it; the message names that run.
    """
    lock = RunLock(place.root)
    with _object_lock(place, run_id, lock) if isinstance(place, S3Place) else _disk_lock(place, run_id):
        yield lock


def _owner(run_id: str) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "processes": _process_space(),
        "renewed_at": time.time(),
    }


def _process_space() -> str:
    """Where a process id means what it means here: this boot of this machine, and its container if it is in one."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _refusal(place: Place, raw: bytes) -> StoreLocked:
    try:
        owner = json.loads(raw)
        who = f"run {owner['run_id']} (process {owner['pid']} on {owner['host']})"
    except (ValueError, KeyError, TypeError):
        who = "another run"
    return StoreLocked(f"{place.root}: {who} is writing to it. Wait for it, or choose another --out.")


@contextmanager
def _disk_lock(place: Place, run_id: str) -> Iterator[None]:
    os.makedirs(place.root, exist_ok=True)
    with open(place.uri(LOCK_FILE), "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _refusal(place, file.read()) from None
        file.truncate(0)
        file.write(json.dumps(_owner(run_id)).encode())
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


@contextmanager
def _object_lock(place: S3Place, run_id: str, lock: RunLock) -> Iterator[None]:
    version = _take(place, run_id)
    stop = threading.Event()
    renewer = threading.Thread(target=_renew, args=(place, run_id, version, lock, stop), name="lock", daemon=True)
    renewer.start()
    try:
        yield
    finally:
        stop.set()
        renewer.join()
        found = place.read_version(LOCK_FILE)
        if found and _is_ours(found[0], run_id):
            place.delete(LOCK_FILE)


def _take(place: S3Place, run_id: str) -> str:
    """Make the lock's object, or take over a stale one; returns its version."""
    while True:
        created = place.create(LOCK_FILE, json.dumps(_owner(run_id)).encode())
        found = place.read_version(LOCK_FILE)
        if found is None:
            continue
        raw, version = found
        # An answer that was lost on the way makes a PUT of ours look like another's.
        if created or _is_ours(raw, run_id):
            return version
        if not _is_stale(raw):
            raise _refusal(place, raw)
        # Of several that find it stale, one replaces the version that they all saw.
        place.swap(LOCK_FILE, json.dumps(_owner(run_id)).encode(), version)


def _renew(place: S3Place, run_id: str, version: str, lock: RunLock, stop: threading.Event) -> None:
    while not stop.wait(RENEW_EVERY_S):
        # A renewal that fails is tried again; ten may fail before anyone takes the lock for abandoned.
        with contextlib.suppress(StoreError):
            place.swap(LOCK_FILE, json.dumps(_owner(run_id)).encode(), version)
            found = place.read_version(LOCK_FILE)
            if found is None or not _is_ours(found[0], run_id):
                lock.lost = True
                return
            version = found[1]


def _is_ours(raw: bytes, run_id: str) -> bool:
    try:
        return bool(json.loads(raw)["run_id"] == run_id)
    except (ValueError, KeyError, TypeError):
        return False


def _is_stale(raw: bytes) -> bool:
    try:
        owner = json.loads(raw)
        if owner["processes"] == _process_space() and not _is_alive(int(owner["pid"])):
            return True
        return time.time() - float(owner["renewed_at"]) > STALE_AFTER_S
    except (ValueError, KeyError, TypeError):
        return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
