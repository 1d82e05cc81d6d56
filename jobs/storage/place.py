"""The interface of a folder on a disk or a prefix on S3: the few operations that the commit protocol needs.

A file appears whole or not at all: on a disk it is written aside, synced and renamed; on S3 one PUT does it. Nothing
here caches a listing, since other processes write to the same place.

A process that was suspended may go on writing after another one took its lock over. So a file that commits something is
written by `swap`: on S3 a conditional PUT, which fails if anybody has written the file since it was read. A place that
is `fenced` also checks the lock before each change; that shortens the time in which a conditional PUT is needed.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import IO, Any, Final, NoReturn, Protocol, Self, TypeVar

from artimuse_actor.errors import ArtiMuseError, GoneFile, StoreError, message_of

READ_THREADS: Final = 16
"""Number of files of a place that are read at the same time."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class StoredFile:
    """One file of a place.

    Attributes:
        path: relative to the place.
        size_bytes: its length.
        version: changes when the content does: size and mtime on a disk, the etag on S3.
    """

    path: str
    size_bytes: int
    version: str


class Place(Protocol):
    """Operations on paths relative to a root; picklable, so that tasks anywhere can use it, without its fence."""

    def __hash__(self) -> int:
        """Hash of the place, so that it can be the key of a cache."""

    @property
    def root(self) -> str:
        """The folder or prefix itself."""

    def uri(self, path: str) -> str:
        """The full name of a path."""

    def read(self, path: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""

    def read_range(self, path: str, start: int, size_bytes: int) -> bytes:
        """So many bytes from `start` on, fewer at the end of the file. Raises FileNotFoundError."""

    def open(self, path: str) -> IO[bytes]:
        """The file for random reads. Raises FileNotFoundError."""

    def write(self, path: str, data: bytes) -> None:
        """Create or replace the file, atomically."""

    def write_private(self, path: str, data: bytes) -> None:
        """As `write`, but on a disk only the user may read the file: uris may have passwords and signatures."""

    def create(self, path: str, data: bytes) -> bool:
        """Create the file, atomically; False if it exists already."""

    def read_version(self, path: str) -> tuple[bytes, str] | None:
        """The file, and a version for `swap`, of this content or an older one; None if there is no file."""

    def swap(self, path: str, data: bytes, version: str | None) -> bool:
        """Replace the file atomically if it still has this version, or create it (None); returns False otherwise.

        In a bucket a file that already has this content counts as swapped: the answer to an earlier attempt may have
        been lost.
        """

    def fenced(self, check: Callable[[], None]) -> Self:
        """The same place; each change of a file first calls `check`, which raises if the lock is no longer ours."""

    def files(self, folder: str) -> list[StoredFile]:
        """All files below a folder ("": the root), sorted by path; empty if there is no such folder.

        Raises:
            StoreError: it, or a folder in it, cannot be listed.
        """

    def delete(self, path: str) -> None:
        """Remove a file if it is there."""

    def delete_tree(self, folder: str) -> None:
        """Remove a folder and all in it, if it is there."""

    def local_path(self, path: str) -> str | None:
        """The path on a disk of a file ("": the root), for what only a disk can do; None if the place is not a disk."""

    def hold(self, path: str, claim: Claim) -> AbstractContextManager[None]:
        """Keep the file locked until the block ends or this process dies.

        Raises:
            Whatever `claim.refuse` raises: another process holds it.
        """


class Claim(Protocol):
    """The owner of a lock, and the treatment of other owners."""

    renew_every_s: float

    def confirm(self, asked_at_s: float) -> None:
        """Note that the storage confirmed the lock, by a request that began at this time of `clock_s`."""

    def owner(self) -> bytes:
        """Content of the lock file while this process has the lock."""

    def is_ours(self, owner: bytes) -> bool:
        """Whether this process wrote that content."""

    def is_stale(self, owner: bytes, age_s: float) -> bool:
        """Whether the process that wrote that content, so many seconds ago, has died."""

    def is_elsewhere(self, owner: bytes) -> bool:
        """Whether a process on another host wrote that content, so that its lock may not be seen here."""

    def watch(self, read: Callable[[], bytes]) -> None:
        """Read the content by this before each change, to see that it is still ours."""

    def refuse(self, owner: bytes) -> NoReturn:
        """Raise: another process has the lock."""

    def lose(self) -> None:
        """Note that another process has taken the lock over."""


def clock_s() -> float:
    """Seconds since this machine started, including those in which it was suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def says_where(method: Callable[..., _T]) -> Callable[..., _T]:
    """Turn errors into a StoreError that names the file; a missing file stays FileNotFoundError, for the caller."""

    @functools.wraps(method)
    def wrapped(place: Place, path: str, *rest: Any) -> _T:
        try:
            return method(place, path, *rest)
        except ArtiMuseError:
            raise
        except Exception as error:  # botocore's errors have no other common base
            if isinstance(error, FileNotFoundError) and method.__name__ in ("read", "read_range", "open"):
                raise
            raise failed(place, path, error) from error

    return wrapped


def changes(method: Callable[..., _T]) -> Callable[..., _T]:
    """As `says_where`, for a method that changes a file: it checks the fence of the place first."""

    @functools.wraps(method)
    def checked(place: Any, path: str, *rest: Any) -> _T:
        if place.fence:
            place.fence()
        return method(place, path, *rest)

    return says_where(checked)


@dataclass(frozen=True)
class Rooted:
    """Root and fence of a place."""

    root: str
    fence: Callable[[], None] | None = field(default=None, compare=False, repr=False)

    def fenced(self, check: Callable[[], None]) -> Self:
        """See `Place`."""
        return replace(self, fence=check)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root,)  # a lock means nothing to another process


def failed(place: Place, path: str, error: Exception) -> StoreError:
    """The error of a file that cannot be read or written now, whatever it holds."""
    return StoreError(
        f"{place.uri(path)}: {message_of(error)}. Check the path, the permissions and the credentials, and run again; "
        "what is committed stays."
    )


def exists(place: Place, path: str) -> bool:
    """Whether a file is there, whatever listings say."""
    try:
        with place.open(path):
            return True
    except FileNotFoundError:
        return False


def read_listed(place: Place, path: str) -> bytes:
    """A file that was listed a moment ago. Raises GoneFile."""
    try:
        return place.read(path)
    except FileNotFoundError as error:
        raise gone(place, path) from error


def gone(place: Place, path: str) -> GoneFile:
    """The error of a file that was listed, and is not there."""
    return GoneFile(
        f"{place.uri(path)}: was listed, and is not there. Somebody deletes files of this store, or the server's "
        "listings lag behind. What is committed stays; run again."
    )
