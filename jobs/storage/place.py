"""A folder on a disk or a prefix on S3, with the few operations that the commit protocol needs.

A file appears whole or not at all: on a disk it is written aside, synced and renamed; on S3 one PUT does it. Nothing
here caches a listing, since other processes write to the same place.
"""

from __future__ import annotations

import fcntl
import functools
import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any, Final, NoReturn, Protocol, TypeVar

import fsspec
import pyarrow as pa

from artimuse_actor.errors import StoreError, UsageError, message_of
from artimuse_actor.fetch.s3_errors import s3_error_code
from artimuse_actor.whole_file import sync, whole_file

TEMPORARY: Final = "_runs/tmp"
"""Folder of unfinished files on a disk, renamed when whole; in the same folder tree, so a rename never copies."""

READ_THREADS: Final = 16
"""Number of files of a place that are read at the same time."""

_EXISTS: Final = ("PreconditionFailed", "ConditionalRequestConflict")
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
    """Operations on paths relative to a root; picklable, so that tasks anywhere can use it."""

    def __hash__(self) -> int:
        """Hash of the place, so that it can be the key of a cache."""

    @property
    def root(self) -> str:
        """The folder or prefix itself."""

    def uri(self, path: str) -> str:
        """The full name of a path."""

    def read(self, path: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""

    def open(self, path: str) -> IO[bytes]:
        """The file for random reads. Raises FileNotFoundError."""

    def write(self, path: str, data: bytes) -> None:
        """Create or replace the file, atomically."""

    def create(self, path: str, data: bytes) -> bool:
        """Create the file, atomically; False if it exists already."""

    def files(self, folder: str) -> list[StoredFile]:
        """All files below a folder ("": the root), sorted by path; empty if there is no such folder."""

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

    def owner(self) -> bytes:
        """Content of the lock file while this process has the lock."""

    def is_ours(self, owner: bytes) -> bool:
        """Whether this process wrote that content."""

    def is_stale(self, owner: bytes) -> bool:
        """Whether the process that wrote that content has died."""

    def refuse(self, owner: bytes) -> NoReturn:
        """Raise: another process has the lock."""

    def lose(self) -> None:
        """Note that another process has taken the lock over."""


def _says_where(method: Callable[..., _T]) -> Callable[..., _T]:
    """Turn errors into a StoreError that names the file; a missing file stays FileNotFoundError, for the caller."""

    @functools.wraps(method)
    def wrapped(place: Place, path: str, *rest: Any) -> _T:
        try:
            return method(place, path, *rest)
        except Exception as error:  # botocore's errors have no other common base
            if isinstance(error, FileNotFoundError) and method.__name__ in ("read", "open"):
                raise
            raise StoreError(
                f"{place.uri(path)}: {message_of(error)}. Check the path, the permissions and the credentials, and run "
                "again; what is committed stays."
            ) from error

    return wrapped


@dataclass(frozen=True)
class LocalPlace:
    """A folder on a disk."""

    root: str

    def uri(self, path: str) -> str:
        """See `Place`."""
        return os.path.join(self.root, path)

    @_says_where
    def read(self, path: str) -> bytes:
        """See `Place`."""
        with self.open(path) as file:
            return file.read()

    @_says_where
    def open(self, path: str) -> IO[bytes]:
        """See `Place`."""
        # A file of pyarrow's own: pyarrow's threads would need the interpreter to release a Python file.
        file: IO[bytes] = pa.OSFile(self.uri(path), "rb")
        return file

    @_says_where
    def write(self, path: str, data: bytes) -> None:
        """See `Place`."""
        with whole_file(self.uri(path), aside=self.uri(TEMPORARY)) as growing:
            _write(growing, data)

    @_says_where
    def create(self, path: str, data: bytes) -> bool:
        """See `Place`."""
        target, aside = self.uri(path), self.uri(TEMPORARY)
        os.makedirs(aside, exist_ok=True)
        temporary = os.path.join(aside, uuid.uuid4().hex)
        try:
            _write(temporary, data)
            sync(temporary)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            return _linked(temporary, target) or _created_in_place(target, data)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)

    @_says_where
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
                version = f"{status.st_size}-{status.st_mtime_ns}"
                found.append(StoredFile(os.path.relpath(full, self.root), status.st_size, version))
        return sorted(found, key=lambda file: file.path)

    @_says_where
    def delete(self, path: str) -> None:
        """See `Place`."""
        if os.path.exists(self.uri(path)):
            os.unlink(self.uri(path))

    @_says_where
    def delete_tree(self, folder: str) -> None:
        """See `Place`."""
        shutil.rmtree(self.uri(folder), ignore_errors=True)

    def local_path(self, path: str) -> str:
        """See `Place`."""
        return self.uri(path) if path else self.root

    @contextmanager
    def hold(self, path: str, claim: Claim) -> Iterator[None]:
        """See `Place`: a lock of the kernel, which releases it however the owner dies."""
        os.makedirs(os.path.dirname(self.uri(path)), exist_ok=True)
        with open(self.uri(path), "a+b") as file:
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


@dataclass(frozen=True)
class S3Place:
    """A prefix of a bucket, with the endpoint and credentials of the environment."""

    root: str

    def uri(self, path: str) -> str:
        """See `Place`."""
        return f"{self.root}/{path}"

    @_says_where
    def read(self, path: str) -> bytes:
        """See `Place`."""
        data: bytes = s3_filesystem().cat_file(self.uri(path))
        return data

    @_says_where
    def open(self, path: str) -> IO[bytes]:
        """See `Place`."""
        file: IO[bytes] = s3_filesystem().open(self.uri(path), "rb")
        return file

    @_says_where
    def write(self, path: str, data: bytes) -> None:
        """See `Place`."""
        s3_filesystem().pipe_file(self.uri(path), data)

    @_says_where
    def create(self, path: str, data: bytes) -> bool:
        """See `Place`."""
        try:
            s3_filesystem().pipe_file(self.uri(path), data, mode="create")
        except OSError as error:
            if isinstance(error, FileExistsError) or s3_error_code(error) in _EXISTS:
                return False
            raise
        return True

    def local_path(self, path: str) -> None:  # noqa: ARG002
        """See `Place`."""
        return

    @contextmanager
    def hold(self, path: str, claim: Claim) -> Iterator[None]:
        """See `Place`: an object made by a conditional PUT and renewed; another process takes over a stale one."""
        version = self._take(path, claim)
        stop = threading.Event()
        renewer = threading.Thread(target=self._renew, args=(path, version, claim, stop), name="lock", daemon=True)
        renewer.start()
        try:
            yield
        finally:
            stop.set()
            renewer.join()
            found = self.read_version(path)
            if found and claim.is_ours(found[0]):
                self.delete(path)

    def _take(self, path: str, claim: Claim) -> str:
        """Create the lock's object, or take over a stale one; returns its version."""
        while True:
            created = self.create(path, claim.owner())
            found = self.read_version(path)
            if found is None:
                continue
            owner, version = found
            # If the answer to our PUT was lost, its retry finds the object there: look who wrote it.
            if created or claim.is_ours(owner):
                return version
            if not claim.is_stale(owner):
                claim.refuse(owner)
            # Several may find it stale; the conditional PUT lets only one replace the version that they all saw.
            self.swap(path, claim.owner(), version)

    def _renew(self, path: str, version: str, claim: Claim, stop: threading.Event) -> None:
        while not stop.wait(claim.renew_every_s):
            # A renewal that fails is retried; ten may fail in a row before another process takes the lock over.
            with suppress(StoreError):
                self.swap(path, claim.owner(), version)
                found = self.read_version(path)
                if found is None or not claim.is_ours(found[0]):
                    claim.lose()
                    return
                version = found[1]

    @_says_where
    def read_version(self, path: str) -> tuple[bytes, str] | None:
        """The file, and a version for `swap`, of this content or an older one; None if there is no file."""
        fs = s3_filesystem()
        try:
            # The version first: if the file changes in between, the swap fails, as it must.
            version = str(fs.info(self.uri(path))["ETag"])
            return fs.cat_file(self.uri(path)), version
        except FileNotFoundError:
            return None

    @_says_where
    def swap(self, path: str, data: bytes, version: str) -> bool:
        """Replace the file atomically if it still has this version; returns False otherwise."""
        try:
            s3_filesystem().pipe_file(self.uri(path), data, IfMatch=version)
        except OSError as error:
            if isinstance(error, FileNotFoundError) or s3_error_code(error) in (*_EXISTS, "NoSuchKey"):
                return False
            raise
        return True

    @_says_where
    def files(self, folder: str) -> list[StoredFile]:
        """See `Place`."""
        prefix = self.uri(folder).removeprefix("s3://").rstrip("/")
        bucket = self.root.removeprefix("s3://")
        return [
            StoredFile(key.removeprefix(f"{bucket}/"), int(info["size"]), str(info.get("ETag", "")).strip('"'))
            for key, info in sorted(s3_filesystem().find(prefix, detail=True).items())
            if key.startswith(f"{prefix}/")  # and not `scores-old/` for the folder `scores`
        ]

    @_says_where
    def delete(self, path: str) -> None:
        """See `Place`."""
        s3_filesystem().rm_file(self.uri(path))  # no error on S3 if there is none

    @_says_where
    def delete_tree(self, folder: str) -> None:
        """See `Place`."""
        fs = s3_filesystem()
        if paths := [self.uri(file.path) for file in self.files(folder)]:
            fs.rm(paths)


def open_place(root: str) -> Place:
    """The place that a local path or an s3:// prefix names.

    Raises:
        UsageError: it has another scheme.
    """
    if root.startswith("s3://"):
        if not re.match(r"^s3://[^/]+", root):
            raise UsageError(f"{root}: names no bucket. Write s3://bucket/prefix.")
        return S3Place(root.rstrip("/"))
    if re.match(r"^[A-Za-z][A-Za-z0-9+.-]*://", root) and not root.startswith("file://"):
        raise UsageError(f"{root}: only local folders and s3:// prefixes can be written to.")
    return LocalPlace(os.path.abspath(os.path.expanduser(root.removeprefix("file://"))))


def s3_filesystem() -> Any:
    """s3fs without any cache of listings, configured by the environment (AWS_ENDPOINT_URL and the like)."""
    return fsspec.filesystem("s3", use_listings_cache=False)


def bucket_exists(bucket: str) -> bool:
    """Whether a bucket exists; True as well if the server does not say, as without access."""
    try:
        s3_filesystem().call_s3("head_bucket", Bucket=bucket)
    except FileNotFoundError:
        return False
    except Exception:  # no access or no connection: reading from it will report that
        return True
    return True


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


def _created_in_place(path: str, data: bytes) -> bool:
    try:
        with open(path, "xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True
