"""A Ray of one run's own: on loopback only, for whoever has its token, in a folder that goes with it.

Whoever can reach a Ray can run code as its user, with the credentials in its environment. By default Ray listens on all
interfaces, and leaves its session folders, writable by all, in the temporary folder.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from artimuse_actor.errors import RunError
from jobs.words import show

LOCAL_ENVIRONMENT: Final = {
    # Ray has this for macOS and Windows; with 0 it takes 127.0.0.1 as the node's address, and listens nowhere else.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # By default Ray ends idle processes beyond one per CPU after 1 s, and the next unit to stage waits for a new one.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
}
_FOLDER: Final = "ray-"
_LOCK: Final = "artimuse.lock"
_SESSIONS: Final = "r"
# Paths of sockets may have 107 bytes: the longest is FOLDER/ray-12345678/r/session_DATE_TIME_PID/sockets/plasma_store.
_LONGEST_FOLDER: Final = 28
_SHORT_FOLDER: Final = "/tmp"


def secret_environment() -> dict[str, str]:
    """Variables that let only those who know a new random token use a Ray; none if the user has set up `RAY_AUTH_*`."""
    if any(name.startswith("RAY_AUTH_") for name in os.environ):
        # A token without a mode is meant to be used.
        return {} if "RAY_AUTH_MODE" in os.environ else {"RAY_AUTH_MODE": "token"}
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@contextmanager
def local_environment() -> Iterator[None]:
    """The environment of a local Ray, in which the user's own variables come first; gone when the block ends."""
    added = {
        name: value for name, value in {**LOCAL_ENVIRONMENT, **secret_environment()}.items() if name not in os.environ
    }
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def session_folder() -> Iterator[str]:
    """A folder for Ray's sessions within a private one, removed when the block ends, unless with `--debug`.

    Folders that killed runs have left are removed first.

    Raises:
        RunError: no folder can be made.
    """
    wanted = os.path.abspath(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    base = wanted if len(wanted) <= _LONGEST_FOLDER else _SHORT_FOLDER
    _remove_left(base)
    try:
        target = _private_folder(wanted)
        folder = target if base == wanted else _private_folder(base)
        sessions = os.path.join(folder, _SESSIONS)  # Ray lets everybody write to the one that it is given
        if folder != target:  # reached by a short path
            os.mkdir(os.path.join(target, _SESSIONS))
            os.symlink(os.path.join(target, _SESSIONS), sessions)
        lock = _locked(folder)
    except OSError as error:
        raise RunError(f"Ray needs a folder in {wanted}: {error}. Name another one by RAY_TMPDIR.") from error
    try:
        yield sessions
    finally:
        if os.environ.get("ARTIMUSE_DEBUG"):
            show(f"Ray's logs are in {folder} until the next run.", file=sys.stderr)
        else:
            _remove(folder)
        if lock:
            lock.close()


def _private_folder(base: str) -> str:
    os.makedirs(base, exist_ok=True)
    return tempfile.mkdtemp(prefix=_FOLDER, dir=base)


def _remove(folder: str) -> None:
    sessions = os.path.join(folder, _SESSIONS)
    if os.path.islink(sessions):
        shutil.rmtree(os.path.dirname(os.readlink(sessions)), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _locked(folder: str) -> IO[bytes] | None:
    """A lock that the kernel releases however this process ends; None where the file system has no locks."""
    new = os.path.join(folder, f"{_LOCK}.new")
    lock = open(new, "wb")  # noqa: SIM115 - as long as the session
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        lock.close()
        return None
    os.rename(new, os.path.join(folder, _LOCK))  # only now, so that nobody finds it without its lock
    return lock


def _remove_left(base: str) -> None:
    """Remove session folders of this user whose run has died."""
    for path in Path(base).glob(f"{_FOLDER}*/{_LOCK}"):
        with suppress(OSError):  # locked, gone meanwhile, or somebody else's
            if path.parent.is_symlink() or path.parent.stat().st_uid != os.geteuid():
                continue
            with open(os.open(path, os.O_RDWR | os.O_NOFOLLOW), "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(str(path.parent))
