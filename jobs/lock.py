"""One run at a time for each store.

On a disk the lock is the kernel's (`flock`), which lets go when its owner dies, however it dies. On S3 it is an object
made with a conditional PUT, kept fresh by its owner; one that was not renewed for minutes has no owner any more.
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
from jobs.storage import LocalPlace, Place

LOCK_FILE: Final = "_lock"
RENEW_EVERY_S: Final = 30.0
STALE_AFTER_S: Final = 300.0


@contextmanager
def run_lock(place: Place, run_id: str) -> Iterator[None]:
    """Hold the store's lock.

    Raises:
        StoreLocked: another run holds it; the message names that run.
    """
    with _disk_lock(place, run_id) if isinstance(place, LocalPlace) else _object_lock(place, run_id):
        yield


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
def _disk_lock(place: LocalPlace, run_id: str) -> Iterator[None]:
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
def _object_lock(place: Place, run_id: str) -> Iterator[None]:
    while not place.create(LOCK_FILE, json.dumps(_owner(run_id)).encode()):
        try:
            raw = place.read(LOCK_FILE)
        except FileNotFoundError:
            continue
        if not _is_stale(raw):
            raise _refusal(place, raw)
        place.delete(LOCK_FILE)
    stop = threading.Event()
    renewer = threading.Thread(target=_renew, args=(place, run_id, stop), name="lock", daemon=True)
    renewer.start()
    try:
        yield
    finally:
        stop.set()
        renewer.join()
        if _is_ours(place, run_id):
            place.delete(LOCK_FILE)


def _renew(place: Place, run_id: str, stop: threading.Event) -> None:
    while not stop.wait(RENEW_EVERY_S):
        # A renewal that fails is tried again; ten may fail before anyone takes the lock for abandoned.
        with contextlib.suppress(StoreError):
            if _is_ours(place, run_id):
                place.write(LOCK_FILE, json.dumps(_owner(run_id)).encode())


def _is_ours(place: Place, run_id: str) -> bool:
    try:
        return bool(json.loads(place.read(LOCK_FILE))["run_id"] == run_id)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
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
