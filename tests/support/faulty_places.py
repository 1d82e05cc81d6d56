"""Places of a store where any change of a file can go wrong: in memory as on S3, and a folder on a disk.

Everything counts as a change that another process could see: a file is written, created, replaced or deleted.
"""

from __future__ import annotations

import io
import os
import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

from jobs.storage.local_place import LocalPlace
from jobs.storage.place import Claim, Place, Rooted, StoredFile, changes, says_where
from jobs.storage.s3_place import S3Place

SERVERS = ("lagging", "unseen", "throttled")
"""Servers that do not always do what S3 promises."""


class Killed(BaseException):
    """The process has died."""


class Seen(BaseException):
    """A reader has seen what must never be; the run may not take this for an error of the place."""


@dataclass
class Faults:
    """What goes wrong at which change, and who looks after each.

    Attributes:
        look: called after each change, as a reader that looks at just this moment.
        at: number of the change, from 1, before which `fault` is done; None for never.
        fault: `killed`; `failed`, as on a full disk; `unanswered`: it is done, but its answer is lost; or a function,
            called as another process that works while this one is suspended right before its change.
        changes: changes so far.
        work: whether changes of the work of a run, below `_runs/`, count.
        server: what a bucket's server does meanwhile, whatever the change: `lagging`: each listing shows some of the
            last changes, and some not; `unseen`: a file is not found once right after it was written; `throttled`: from
            the change `at` on it refuses three requests, also reads; None for nothing.
    """

    look: Callable[[], object] = lambda: None
    at: int | None = None
    fault: str | Callable[[], None] = "killed"
    changes: int = 0
    work: bool = True
    dead: bool = False
    server: str | None = None
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    refusals: int = 0

    def arm(self, at: int | None, fault: str | Callable[[], None] = "killed", *, work: bool = True) -> None:
        """Count from the start, and let this go wrong; None for nothing."""
        self.at, self.fault, self.changes, self.work, self.dead = at, fault, 0, work, False
        self.server, self.refusals = None, 0
        if fault in SERVERS and at is not None:
            self.server, self.chance = str(fault), random.Random(at)

    def request(self, path: str) -> None:
        """One request of any kind."""
        if self.server and self.refusals:
            self.refusals -= 1
            raise TimeoutError(f"{path}: 503 SlowDown")

    @contextmanager
    def change(self, path: str) -> Iterator[None]:
        """One change of a file."""
        if self.dead:
            raise Killed
        counts = self.work or not path.startswith("_runs/")
        self.changes += counts
        is_now = counts and self.changes == self.at
        if is_now and callable(self.fault):
            self.at = None  # the other process has no faults
            self.fault()
        elif is_now and self.fault == "killed":
            self.dead = True
            raise Killed
        elif is_now and self.fault == "failed":
            raise OSError(28, "No space left on device", path)
        elif is_now and self.fault == "throttled":
            self.refusals = 3
        self.request(path)
        yield
        server, self.server = self.server, None  # a reader sees what is there
        try:
            self.look()
        except AssertionError as error:
            raise Seen(str(error)) from error
        finally:
            self.server = server
        if is_now and self.fault == "unanswered":
            raise TimeoutError(f"{path}: no answer")


@dataclass
class Bucket:
    """What is stored, and who has the lock."""

    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    writes: int = 0
    owner: Claim | None = None
    faults: Faults = field(default_factory=Faults)
    recent: deque[tuple[str, tuple[bytes, int] | None]] = field(default_factory=lambda: deque(maxlen=8))
    unseen: str | None = None

    def put(self, path: str, data: bytes) -> None:
        self.recent.append((path, self.files.get(path)))
        self.unseen = path
        self.writes += 1
        self.files[path] = data, self.writes

    def pop(self, path: str) -> None:
        if path in self.files:
            self.recent.append((path, self.files.pop(path)))

    def get(self, path: str) -> tuple[bytes, int] | None:
        """A file as a GET or a HEAD finds it."""
        self.faults.request(path)
        if self.faults.server == "unseen" and self.unseen == path:
            self.unseen = None
            return None
        return self.files.get(path)

    def listed(self) -> dict[str, tuple[bytes, int]]:
        """All files as a listing shows them."""
        self.faults.request("a listing")
        if self.faults.server != "lagging":
            return self.files
        shown = dict(self.files)
        for path, before in reversed(self.recent):
            if self.faults.chance.random() < 0.5:
                shown.pop(path, None)
                shown |= {} if before is None else {path: before}
        return shown


BUCKETS: defaultdict[str, Bucket] = defaultdict(Bucket)
"""Root → its files; places are compared and pickled by their roots alone."""


@dataclass(frozen=True)
class MemoryPlace(Rooted):
    """A prefix of a bucket, as S3 behaves: a lock can be taken over while its owner still believes to have it."""

    @property
    def bucket(self) -> Bucket:
        return BUCKETS[self.root]

    def uri(self, path: str) -> str:
        return f"{self.root}/{path}"

    @says_where
    def read(self, path: str) -> bytes:
        if (found := self.bucket.get(path)) is None:
            raise FileNotFoundError(path)
        return found[0]

    @says_where
    def read_range(self, path: str, start: int, size_bytes: int) -> bytes:
        return self.read(path)[start : start + size_bytes]

    @says_where
    def open(self, path: str) -> IO[bytes]:
        return io.BytesIO(self.read(path))

    @changes
    def write(self, path: str, data: bytes) -> None:
        with self.bucket.faults.change(path):
            self.bucket.put(path, data)

    def write_private(self, path: str, data: bytes) -> None:
        self.write(path, data)

    @changes
    def create(self, path: str, data: bytes) -> bool:
        return self._put_if(path, data, None)

    def read_version(self, path: str) -> tuple[bytes, str] | None:
        found = self.bucket.get(path)
        return found and (found[0], str(found[1]))

    @changes
    def swap(self, path: str, data: bytes, version: str | None) -> bool:
        return self._put_if(path, data, version) or self.bucket.files.get(path, (None,))[0] == data

    def _put_if(self, path: str, data: bytes, version: str | None) -> bool:
        with self.bucket.faults.change(path):
            found = self.bucket.files.get(path)
            if (str(found[1]) if found else None) != version:
                return False
            self.bucket.put(path, data)
            return True

    @says_where
    def files(self, folder: str) -> list[StoredFile]:
        prefix = f"{folder}/" if folder else ""
        found = [item for item in self.bucket.listed().items() if item[0].startswith(prefix)]
        return [StoredFile(path, len(data), str(version)) for path, (data, version) in sorted(found)]

    @changes
    def delete(self, path: str) -> None:
        with self.bucket.faults.change(path):
            self.bucket.pop(path)

    @changes
    def delete_tree(self, folder: str) -> None:
        for file in self.files(folder):
            with self.bucket.faults.change(file.path):
                self.bucket.pop(file.path)

    def local_path(self, path: str) -> None:  # noqa: ARG002
        return

    @contextmanager
    def hold(self, path: str, claim: Claim) -> Iterator[None]:  # noqa: ARG002
        if self.bucket.owner:
            self.bucket.owner.lose()
        self.bucket.owner = claim
        try:
            yield
        finally:
            if self.bucket.owner is claim:
                self.bucket.owner = None


@dataclass(frozen=True)
class FaultyDisk(LocalPlace):
    """A folder, without waiting for the disk."""

    @property
    def faults(self) -> Faults:
        return BUCKETS[self.root].faults

    @changes
    def write(self, path: str, data: bytes) -> None:
        with self.faults.change(path):
            super().write(path, data)

    @changes
    def write_private(self, path: str, data: bytes) -> None:
        with self.faults.change(path):
            super().write_private(path, data)

    @changes
    def create(self, path: str, data: bytes) -> bool:
        with self.faults.change(path):
            return super().create(path, data)

    @changes
    def swap(self, path: str, data: bytes, version: str | None) -> bool:
        found = self.read_version(path)
        if (found and found[1]) != version:
            return False
        self.write(path, data)
        return True

    @changes
    def delete(self, path: str) -> None:
        if os.path.exists(self.uri(path)):
            with self.faults.change(path):
                super().delete(path)

    @changes
    def delete_tree(self, folder: str) -> None:
        if os.path.exists(self.uri(folder)):
            for file in self.files(folder):
                self.delete(file.path)
            super().delete_tree(folder)


def open_faulty_place(root: str) -> Place:
    """The place of a root: `memory://…`, a folder, or a real bucket, where nothing goes wrong by itself."""
    if root.startswith("s3://"):
        return S3Place(root)
    return MemoryPlace(root) if root.startswith("memory://") else FaultyDisk(root)
