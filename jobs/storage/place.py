"""A folder on a disk or a prefix on S3, with the few operations that the commit protocol is made of.

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
"""Where files grow on a disk before they are renamed; in the same folder tree, so a rename never copies."""

READ_THREADS: Final = 16
"""How many files of a place are read at the same time."""

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
        """A place can be the key of a cache."""

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
        """All files below a folder, or of all if it is "", sorted by path; none if there is no such folder."""

    def delete(self, path: str) -> None:
        """Remove a file if it is there."""

    def delete_tree(self, folder: str) -> None:
        """Remove a folder and all in it, if it is there."""

    def local_path(self, path: str) -> str | None:
        """The path of a file, or of the root if it is "", on a disk, for what only a disk can do; None elsewhere."""

    def hold(self, path: str, claim: Claim) -> AbstractContextManager[None]:
        """Hold the file as a lock, until the block ends or this process dies.

        Raises:
            Whatever `claim.refuse` raises: another process holds it.
        """


class Claim(Protocol):
    """Who holds a lock, and what becomes of those who do not."""

    renew_every_s: float

    def owner(self) -> bytes:
        """What stands in the file while this process holds it."""

    def is_ours(self, owner: bytes) -> bool:
        """Whether that is what this process wrote."""

    def is_stale(self, owner: bytes) -> bool:
        """Whether whoever wrote it has died."""

    def refuse(self, owner: bytes) -> NoReturn:
        """Give up: another process holds it."""

    def lose(self) -> None:
        """Another process has taken it over."""


def _says_where(method: Callable[..., _T]) -> Callable[..., _T]:
    """Name the file in whatever goes wrong with it; that a file is not there is for the caller to judge."""

    @functools.wraps(method)
    def wrapped(place: Place, path: str, *rest: Any) -> _T:
        try:
            return method(place, path, *rest)
        except Exception as error:  # botocore's errors share no base but this
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
        # pyarrow's own, since a file of Python's needs the interpreter when pyarrow's threads let it go.
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
        """See `Place`: the kernel's lock, which it lets go when its owner dies, however it dies."""
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
        """See `Place`: an object made by a conditional PUT and kept fresh; a stale one is taken over by another."""
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
        """Make the lock's object, or take over a stale one; returns its version."""
        while True:
            created = self.create(path, claim.owner())
            found = self.read_version(path)
            if found is None:
                continue
            owner, version = found
            # An answer that was lost on the way makes a PUT of ours look like another's.
            if created or claim.is_ours(owner):
                return version
            if not claim.is_stale(owner):
                claim.refuse(owner)
            # Of several that find it stale, one replaces the version that they all saw.
            self.swap(path, claim.owner(), version)

    def _renew(self, path: str, version: str, claim: Claim, stop: threading.Event) -> None:
        while not stop.wait(claim.renew_every_s):
            # A renewal that fails is tried again; ten may fail before anyone takes the lock for abandoned.
            with suppress(StoreError):
                self.swap(path, claim.owner(), version)
                found = self.read_version(path)
                if found is None or not claim.is_ours(found[0]):
                    claim.lose()
                    return
                version = found[1]

    @_says_where
    def read_version(self, path: str) -> tuple[bytes, str] | None:
        """The file, and a version for `swap` that is this one's or an older one's; None if it is not there."""
        fs = s3_filesystem()
        try:
            # The version first: should the file change in between, the swap fails, as it must.
            version = str(fs.info(self.uri(path))["ETag"])
            return fs.cat_file(self.uri(path)), version
        except FileNotFoundError:
            return None

    @_says_where
    def swap(self, path: str, data: bytes, version: str) -> bool:
        """Replace the file if it is still of this version, atomically; False if it is not."""
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
            if key.startswith(f"{prefix}/")  # and not a folder whose name only begins alike
        ]

    @_says_where
    def delete(self, path: str) -> None:
        """See `Place`."""
        s3_filesystem().rm_file(self.uri(path))  # S3 has no objection if it is not there

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
    """Whether a server has a bucket, as far as it tells: it is taken to have one that it lets nobody look at."""
    try:
        s3_filesystem().call_s3("head_bucket", Bucket=bucket)
    except FileNotFoundError:
        return False
    except Exception:  # no access, no connection: for those who read from it to judge
        return True
    return True


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _linked(temporary: str, path: str) -> bool:
    """Give a file its name unless another has it; unlike a rename, a link never replaces."""
    try:
        os.link(temporary, path)
    except OSError:  # it exists, or the file system has no hard links, such as that of a memory card
        return False
    return True


def _created_in_place(path: str, data: bytes) -> bool:
    try:
        with open(path, "xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True
