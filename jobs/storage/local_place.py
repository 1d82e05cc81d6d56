"""A folder on a disk as the place of a store."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import IO, Final

import pyarrow as pa

from artimuse_actor.errors import StoreError, message_of
from artimuse_actor.fetch.local import local_version
from artimuse_actor.whole_file import sync, whole_file
from jobs.storage.place import Claim, Rooted, StoredFile, changes, says_where

TEMPORARY: Final = "_runs/tmp"
"""Folder of unfinished files, renamed when whole; in the same folder tree, so a rename never copies."""


@dataclass(frozen=True)
class LocalPlace(Rooted):
    """A folder on a disk."""

    def uri(self, path: str) -> str:
        """See `Place`."""
        return os.path.join(self.root, path)

    @says_where
    def read(self, path: str) -> bytes:
        """See `Place`."""
        with self.open(path) as file:
            return file.read()

    @says_where
    def read_range(self, path: str, start: int, size_bytes: int) -> bytes:
        """See `Place`."""
        with self.open(path) as file:
            file.seek(start)
            return file.read(size_bytes)

    @says_where
    def open(self, path: str) -> IO[bytes]:
        """See `Place`."""
        # A file of pyarrow's own: pyarrow's threads would need the interpreter to release a Python file.
        file: IO[bytes] = pa.OSFile(self.uri(path), "rb")
        return file

    @changes
    def write(self, path: str, data: bytes) -> None:
        """See `Place`."""
        with whole_file(self.uri(path), aside=self.uri(TEMPORARY)) as growing:
            _write(growing, data)

    @changes
    def write_private(self, path: str, data: bytes) -> None:
        """See `Place`."""
        with whole_file(self.uri(path), aside=self.uri(TEMPORARY)) as growing:
            os.close(os.open(growing, os.O_CREAT | os.O_WRONLY, 0o600))
            _write(growing, data)

    @changes
    def create(self, path: str, data: bytes) -> bool:
        """See `Place`."""
        target, aside = self.uri(path), self.uri(TEMPORARY)
        os.makedirs(aside, exist_ok=True)
        temporary = os.path.join(aside, uuid.uuid4().hex)
        try:
            _write(temporary, data)
            sync(temporary)
            os.makedirs(folder := os.path.dirname(target), exist_ok=True)
            created = _linked(temporary, target) or _moved(temporary, target)
            sync(folder)  # else a power cut may leave tables whose description is gone
            return created
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)

    @says_where
    def read_version(self, path: str) -> tuple[bytes, str] | None:
        """See `Place`."""
        try:
            with open(self.uri(path), "rb") as file:
                return file.read(), local_version(os.fstat(file.fileno()))
        except FileNotFoundError:
            return None

    @changes
    def swap(self, path: str, data: bytes, version: str | None) -> bool:
        """See `Place`: the lock of a disk ends with its process, so nobody writes between the look and the rename.

        Where hosts do not see each other's locks that is a moment, since the file is written and synced before.
        """
        with suppress(_Changed), whole_file(self.uri(path), aside=self.uri(TEMPORARY)) as growing:
            _write(growing, data)
            sync(growing)
            if self.fence:
                self.fence()
            if self._version_of(path) != version:
                raise _Changed
            return True
        return False

    def _version_of(self, path: str) -> str | None:
        try:
            return local_version(os.stat(self.uri(path)))
        except FileNotFoundError:
            return None

    @says_where
    def files(self, folder: str) -> list[StoredFile]:
        """See `Place`."""
        found = []
        for parent, _, names in os.walk(self.uri(folder), onerror=_raise_unless_gone):
            for name in names:
                full = os.path.join(parent, name)
                try:
                    status = os.stat(full)
                except FileNotFoundError:
                    continue  # another process is at work in here
                found.append(StoredFile(os.path.relpath(full, self.root), status.st_size, local_version(status)))
        return sorted(found, key=lambda file: file.path)

    @changes
    def delete(self, path: str) -> None:
        """See `Place`."""
        if os.path.exists(self.uri(path)):
            os.unlink(self.uri(path))

    @changes
    def delete_tree(self, folder: str) -> None:
        """See `Place`."""
        shutil.rmtree(self.uri(folder), ignore_errors=True)

    def local_path(self, path: str) -> str:
        """See `Place`."""
        return self.uri(path) if path else self.root

    @says_where
    def _opened_lock(self, path: str) -> IO[bytes]:
        os.makedirs(os.path.dirname(self.uri(path)), exist_ok=True)
        return open(self.uri(path), "a+b", buffering=0)  # nothing is left to be written when it is closed

    @contextmanager
    def hold(self, path: str, claim: Claim) -> Iterator[None]:
        """See `Place`: a lock of the kernel, which releases it however the owner dies.

        Hosts that share a disk may not see each other's locks (NFS with `local_lock`). So the file names its owner too,
        who renews it; an owner on another host that has done so lately is believed, and each change reads it again.
        """
        with self._opened_lock(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                claim.refuse(file.read())
            except OSError as error:  # such as NFS without its lock daemon, or some of FUSE
                raise StoreError(
                    f"{self.uri(path)}: cannot be locked ({message_of(error)}), so two runs might write to one store. "
                    "Nothing was written. Mount this file system with locks, or choose another --out."
                ) from error
            file.seek(0)
            before = file.read()
            if claim.is_elsewhere(before) and not claim.is_stale(before, self._age_s(path)):
                claim.refuse(before)
            self._sign(path, file, claim.owner())
            read = partial(self._owner, path)
            claim.watch(read)
            stop = threading.Event()
            renewer = threading.Thread(target=self._renew, args=(path, claim, stop), name="lock", daemon=True)
            renewer.start()
            try:
                yield
            finally:
                stop.set()
                renewer.join()
                if claim.is_ours(read()):
                    file.truncate(0)

    @says_where
    def _sign(self, path: str, file: IO[bytes], owner: bytes) -> None:  # noqa: ARG002 - the path is for the message
        file.truncate(0)
        file.write(owner)

    def _owner(self, path: str) -> bytes:
        """The content of a lock file; empty if it is gone."""
        try:
            return self.read(path)
        except FileNotFoundError:
            return b""

    @says_where
    def _age_s(self, path: str) -> float:
        """Seconds since a file was written, by the clock of the machine that keeps it: that of a file written now."""
        aside = self.uri(f"{TEMPORARY}/{uuid.uuid4().hex}")
        os.makedirs(os.path.dirname(aside), exist_ok=True)
        _write(aside, b"")
        try:
            return os.stat(aside).st_mtime - os.stat(self.uri(path)).st_mtime
        finally:
            os.unlink(aside)

    def _renew(self, path: str, claim: Claim, stop: threading.Event) -> None:
        """Renew the time of a lock file, by the clock of the machine that keeps it, as long as it is ours."""
        while not stop.wait(claim.renew_every_s):
            with suppress(OSError, StoreError):
                if claim.is_ours(self._owner(path)):
                    os.utime(self.uri(path))


class _Changed(Exception):  # noqa: N818 (ends a write, and is seen by nobody else)
    """A file has another version than was read."""


def _raise_unless_gone(error: OSError) -> None:
    """Refuse a folder that is there and cannot be listed: rows of files that nobody sees would be made again."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _linked(temporary: str, path: str) -> bool:
    """Link a file to its final name; False if that exists, since unlike a rename a link never replaces."""
    try:
        os.link(temporary, path)
    except OSError:  # the name exists, or the file system has no hard links, as on a memory card
        return False
    return True


def _moved(temporary: str, path: str) -> bool:
    """Give a file its final name where there are no hard links; an empty file there is left of a killed attempt."""
    try:
        with open(path, "xb"):
            pass
    except FileExistsError:
        if os.path.getsize(path):
            return False
    os.replace(temporary, path)
    return True
