"""The lock that lets only one run at a time write to a store.

The storage implements it (`Place.hold`): a disk by `flock`, which ends with its owner's process, and by the content of
the file, for hosts that do not see each other's `flock`; S3 by an object that its owner renews. An object that was not
renewed for minutes, by the server's clock, or whose process is gone from this machine, is stale. An owner that could
not renew it stops writing earlier than that, by a clock of its own. And every file that it commits is written on the
condition that nobody else has written it (`Place.swap`): a process that was suspended right before a PUT cannot know
how late it is.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

from artimuse_actor.errors import StoreLocked
from jobs.storage.place import Place, clock_s
from jobs.store.layout import LOCK_FILE

RENEW_EVERY_S: Final = 30.0
STALE_AFTER_S: Final = 300.0
WRITE_AT_MOST_S: Final = 240.0
"""An owner writes nothing later than this after its last renewal, so that most PUTs end before the lock is stale."""


class RunLock:
    """The lock of a run; implements `Claim`.

    Attributes:
        lost: whether another run has taken it over, for example after this machine was suspended.
        renew_every_s: interval of renewals, where the storage needs them.
    """

    def __init__(self, root: str, run_id: str) -> None:
        """Use `run_lock`."""
        self.lost = False
        self._confirmed_at_s: float | None = None
        self._read: Callable[[], bytes] | None = None
        self.renew_every_s = RENEW_EVERY_S
        self._root, self._run_id = root, run_id

    def check(self) -> None:
        """Check that the lock is ours; called before each change of a file.

        Raises:
            StoreLocked: the lock is lost, or could not be renewed, and another run may be writing.
        """
        if self._read and not self.is_ours(found := self._read()):
            raw = _read(found)
            who = f"run {raw['run_id']} on {raw['host']}" if "run_id" in raw and "host" in raw else "somebody"
            raise StoreLocked(
                f"{self._root}: {who} has taken the lock over. Hosts that share this disk must see each other's locks: "
                "mount NFS without local_lock and nolock. What was committed stays; run again when the other has ended."
            )
        if self.lost:
            raise StoreLocked(
                f"{self._root}: another run has taken the lock over, since this one did not renew it for "
                f"{STALE_AFTER_S:.0f} s. What was committed stays; run again when the other has ended."
            )
        if self._confirmed_at_s is not None and clock_s() - self._confirmed_at_s > WRITE_AT_MOST_S:
            raise StoreLocked(
                f"{self._root}: the lock was not renewed for {WRITE_AT_MOST_S:.0f} s, since this machine was suspended "
                "or the storage did not answer. What was committed stays; run again."
            )

    def confirm(self, asked_at_s: float) -> None:
        """See `Claim`."""
        self._confirmed_at_s = asked_at_s

    def owner(self) -> bytes:
        """See `Claim`: run, host, process and time."""
        owner = {
            "run_id": self._run_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "processes": _process_space(),
            "renewed_at": time.time(),  # for people, and so that each renewal is another version
        }
        return json.dumps(owner).encode()

    def is_ours(self, owner: bytes) -> bool:
        """See `Claim`."""
        return _read(owner).get("run_id") == self._run_id

    def is_stale(self, owner: bytes, age_s: float) -> bool:
        """See `Claim`: an owner that cannot be read, is gone from this machine, or has not renewed its lock."""
        raw = _read(owner)
        try:
            if raw["processes"] == _process_space() and not _is_alive(int(raw["pid"])):
                return True
        except (ValueError, KeyError, TypeError):
            return True
        return age_s > STALE_AFTER_S

    def is_elsewhere(self, owner: bytes) -> bool:
        """See `Claim`: neither the host nor its kernel is this one."""
        raw = _read(owner)
        return (
            "host" in raw
            and raw["host"] != socket.gethostname()
            and _boot(raw.get("processes")) != _boot(_process_space())
        )

    def watch(self, read: Callable[[], bytes]) -> None:
        """See `Claim`."""
        self._read = read

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


def _boot(space: object) -> str:
    """The boot id in a process space: containers of one kernel see each other's locks."""
    return str(space).partition(" ")[0]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
