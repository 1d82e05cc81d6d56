"""The lock that lets only one run at a time write to a store.

The storage implements it (`Place.hold`): a disk by `flock`, which ends with its owner's process; S3 by an object that
its owner renews. An object that was not renewed for minutes, or whose process is gone from this machine, is stale.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

from artimuse_actor.errors import StoreLocked
from jobs.storage.place import Place
from jobs.store.layout import LOCK_FILE

RENEW_EVERY_S: Final = 30.0
STALE_AFTER_S: Final = 300.0


class RunLock:
    """The lock of a run; implements `Claim`.

    Attributes:
        lost: whether another run has taken it over, for example after this machine was suspended.
        renew_every_s: interval of renewals, where the storage needs them.
    """

    def __init__(self, root: str, run_id: str) -> None:
        """Use `run_lock`."""
        self.lost = False
        self.renew_every_s = RENEW_EVERY_S
        self._root, self._run_id = root, run_id

    def check(self) -> None:
        """Check that the lock is not lost; called before each commit of a shard.

        Raises:
            StoreLocked: the lock is lost, and another run may be writing.
        """
        if self.lost:
            raise StoreLocked(
                f"{self._root}: another run has taken the lock over, since this one did not renew it for "
                f"{STALE_AFTER_S:.0f} s. What was committed stays; run again when the other has ended."
            )

    def owner(self) -> bytes:
        """See `Claim`: run, host, process and time."""
        owner = {
            "run_id": self._run_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "processes": _process_space(),
            "renewed_at": time.time(),
        }
        return json.dumps(owner).encode()

    def is_ours(self, owner: bytes) -> bool:
        """See `Claim`."""
        return _read(owner).get("run_id") == self._run_id

    def is_stale(self, owner: bytes) -> bool:
        """See `Claim`: an owner that cannot be read, is gone from this machine, or has not renewed its lock."""
        raw = _read(owner)
        try:
            if raw["processes"] == _process_space() and not _is_alive(int(raw["pid"])):
                return True
            return time.time() - float(raw["renewed_at"]) > STALE_AFTER_S
        except (ValueError, KeyError, TypeError):
            return True

    def refuse(self, owner: bytes) -> NoReturn:
        """See `Claim`. Raises StoreLocked."""
        raw = _read(owner)
        try:
            who = f"run {raw['run_id']} (process {raw['pid']} on {raw['host']})"
        except KeyError:
            who = "another run"
        raise StoreLocked(f"{self._root}: {who} is writing to it. Wait for it, or choose another --out.") from None

    def lose(self) -> None:
        """See `Claim`."""
        self.lost = True


@contextmanager
def run_lock(place: Place, run_id: str) -> Iterator[RunLock]:
    """Keep the store locked until the block ends.

    Raises:
        StoreLocked: another run has the lock; the message names that run.
    """
    lock = RunLock(place.root, run_id)
    with place.hold(LOCK_FILE, lock):
        yield lock


def _read(owner: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(owner)
    except ValueError:
        return {}
    return raw if isinstance(raw, dict) else {}


def _process_space() -> str:
    """Boot id and PID namespace: process ids are comparable only within one."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
