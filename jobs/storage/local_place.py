"""A folder on a disk as the place of a store."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Final

import pyarrow as pa

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
                return file.read(), _version(os.fstat(file.fileno()))
        except FileNotFoundError:
            return None

    @changes
    def swap(self, path: str, data: bytes, version: str | None) -> bool:
        """See `Place`: the lock of a disk ends with its process, so nobody writes between the look and the rename."""
        try:
            now = _version(os.stat(self.uri(path)))
        except FileNotFoundError:
            now = None
        if now == version:
            self.write(path, data)
        return now == version

    @says_where
    def files(self, folder: str) -> list[StoredFile]:
        """See `Place`."""
        found = []
        for parent, _, names in os.walk(self.uri(folder)):
            for name in names:
                full = os.path.join(parent, name)
                try:
                    status = os.stat(full)
                except FileNotFoundError:
                    continue  # another process is at work in here
                found.append(StoredFile(os.path.relpath(full, self.root), status.st_size, _version(status)))
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
        return open(self.uri(path), "a+b")

    @contextmanager
    def hold(self, path: str, claim: Claim) -> Iterator[None]:
        """See `Place`: a lock of the kernel, which releases it however the owner dies."""
        with self._opened_lock(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                claim.refuse(file.read())
            file.truncate(0)
            file.write(claim.owner())
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)


def _version(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


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
