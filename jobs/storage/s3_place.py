"""A prefix of a bucket as the place of a store, and the lock that its runs renew there."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import IO, Any, Final

import fsspec

from artimuse_actor.errors import StoreError
from artimuse_actor.fetch.s3_errors import s3_error_code
from jobs.storage.place import Claim, Rooted, StoredFile, changes, clock_s, says_where

_TAKE_ATTEMPTS: Final = 20
_PAUSE_S: Final = 0.25
_EXISTS: Final = ("PreconditionFailed", "ConditionalRequestConflict")


@dataclass(frozen=True)
class S3Place(Rooted):
    """A prefix of a bucket, with the endpoint and credentials of the environment."""

    def uri(self, path: str) -> str:
        """See `Place`."""
        return f"{self.root}/{path}"

    @says_where
    def read(self, path: str) -> bytes:
        """See `Place`."""
        data: bytes = s3_filesystem().cat_file(self.uri(path))
        return data

    @says_where
    def read_range(self, path: str, start: int, size_bytes: int) -> bytes:
        """See `Place`."""
        data: bytes = s3_filesystem().cat_file(self.uri(path), start=start, end=start + size_bytes)
        return data

    @says_where
    def open(self, path: str) -> IO[bytes]:
        """See `Place`."""
        file: IO[bytes] = s3_filesystem().open(self.uri(path), "rb")
        return file

    @changes
    def write(self, path: str, data: bytes) -> None:
        """See `Place`."""
        s3_filesystem().pipe_file(self.uri(path), data)

    def write_private(self, path: str, data: bytes) -> None:
        """See `Place`: who may read a bucket is the bucket's own matter."""
        self.write(path, data)

    @changes
    def create(self, path: str, data: bytes) -> bool:
        """See `Place`."""
        return self._put_if(path, data, IfNoneMatch="*")

    @changes
    def swap(self, path: str, data: bytes, version: str | None) -> bool:
        """See `Place`: a conditional PUT."""
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        if self._put_if(path, data, **condition):
            return True
        found = self.read_version(path)
        return found is not None and found[0] == data

    def _put_if(self, path: str, data: bytes, **condition: str) -> bool:
        """One PUT of up to 5 GiB; s3fs would send a large file in parts, without the condition."""
        bucket, _, key = self.uri(path).removeprefix("s3://").partition("/")
        try:
            s3_filesystem().call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
        except OSError as error:
            is_gone = isinstance(error, FileNotFoundError) and "IfMatch" in condition
            if is_gone or isinstance(error, FileExistsError) or s3_error_code(error) in _EXISTS:
                return False
            raise
        return True

    def local_path(self, path: str) -> None:  # noqa: ARG002
        """See `Place`."""
        return

    @contextmanager
    def hold(self, path: str, claim: Claim) -> Iterator[None]:
        """See `Place`: an object made by a conditional PUT and renewed; another process takes over a stale one."""
        lease = _Lease(self, path, claim)
        lease.take()
        stop = threading.Event()
        renewer = threading.Thread(target=lease.renew, args=(stop,), name="lock", daemon=True)
        renewer.start()
        try:
            yield
        finally:
            stop.set()
            renewer.join()
            lease.release()

    @says_where
    def read_version(self, path: str) -> tuple[bytes, str] | None:
        """See `Place`."""
        found = self.read_age(path)
        return found and found[:2]

    @says_where
    def read_age(self, path: str) -> tuple[bytes, str, float] | None:
        """The file, its version, and the seconds since it was written; None if there is no file.

        Both times are the server's, so that no clock of ours matters; without them the file counts as new.
        """
        fs = s3_filesystem()
        bucket, _, key = self.uri(path).removeprefix("s3://").partition("/")
        try:
            # The version first: if the file changes in between, the swap fails, as it must.
            head = fs.call_s3("head_object", Bucket=bucket, Key=key)
            written, now = head.get("LastModified"), head["ResponseMetadata"]["HTTPHeaders"].get("date")
            age_s = 0.0
            if isinstance(written, datetime) and now:
                age_s = (parsedate_to_datetime(now) - written).total_seconds()
            return fs.cat_file(self.uri(path)), str(head["ETag"]), age_s
        except FileNotFoundError:
            return None

    @says_where
    def files(self, folder: str) -> list[StoredFile]:
        """See `Place`."""
        prefix = self.uri(folder).removeprefix("s3://").rstrip("/")
        bucket = self.root.removeprefix("s3://")
        return [
            StoredFile(key.removeprefix(f"{bucket}/"), int(info["size"]), str(info.get("ETag", "")).strip('"'))
            for key, info in sorted(s3_filesystem().find(prefix, detail=True).items())
            if key.startswith(f"{prefix}/")  # and not `scores-old/` for the folder `scores`
        ]

    @changes
    def delete(self, path: str) -> None:
        """See `Place`."""
        s3_filesystem().rm_file(self.uri(path))  # no error on S3 if there is none

    @changes
    def delete_tree(self, folder: str) -> None:
        """See `Place`."""
        fs = s3_filesystem()
        if paths := [self.uri(file.path) for file in self.files(folder)]:
            fs.rm(paths)


class _Lease:
    """The lock of one owner on S3: an object that only conditional PUTs change."""

    def __init__(self, place: S3Place, path: str, claim: Claim) -> None:
        self._place, self._path, self._claim = place, path, claim
        self._version = ""

    def take(self) -> None:
        """Create the object, or take over a stale one. Raises StoreError, or as `Claim.refuse`."""
        place, path, claim = self._place, self._path, self._claim
        for _ in range(_TAKE_ATTEMPTS):
            asked_at_s = clock_s()
            created = place.create(path, claim.owner())
            found = place.read_age(path)
            if found is None:
                time.sleep(_PAUSE_S)
                continue
            owner, version, age_s = found
            # If the answer to our PUT was lost, its retry finds the object there: look who wrote it.
            if created or claim.is_ours(owner):
                break
            if not claim.is_stale(owner, age_s):
                claim.refuse(owner)
            # Several may find it stale; the conditional PUT lets only one replace the version that they all saw.
            place.swap(path, claim.owner(), version)
        else:
            raise StoreError(
                f"{place.uri(path)}: the server does not show this file after it was written, so nobody can be kept "
                "from writing at the same time. Use a server that does, or an --out on a disk."
            )
        self._version = version
        claim.confirm(asked_at_s)
        if place.create(path, claim.owner()) or place.swap(path, claim.owner(), '"0"'):
            raise StoreError(
                f"{place.root}: its server ignores the conditions of PUTs (If-None-Match, If-Match), so two runs could "
                "write at the same time. Use a server that honours them, or an --out on a disk."
            )

    def renew(self, stop: threading.Event) -> None:
        """Renew the lock until it stops or is lost."""
        while not stop.wait(self._claim.renew_every_s):
            # A renewal that fails is retried; when many have failed in a row, the owner stops writing by itself.
            with suppress(StoreError):
                asked_at_s = clock_s()
                self._place.swap(self._path, self._claim.owner(), self._version)
                found = self._place.read_version(self._path)
                if found is None or not self._claim.is_ours(found[0]):
                    self._claim.lose()
                    return
                self._version = found[1]
                self._claim.confirm(asked_at_s)

    def release(self) -> None:
        """Empty the object if it is still ours; a DELETE could not tell, and would remove the lock of another run."""
        with suppress(StoreError):  # what was done is done; the lock gets stale
            found = self._place.read_version(self._path)
            if found and self._claim.is_ours(found[0]):
                self._place.swap(self._path, b"", found[1])


def s3_filesystem() -> Any:
    """s3fs without any cache of listings, configured by the environment (AWS_ENDPOINT_URL and the like)."""
    return fsspec.filesystem("s3", use_listings_cache=False)


def object_store_options() -> dict[str, str] | None:
    """Options of libraries with S3 clients of their own, which refuse plain HTTP unless told."""
    over_http = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return {"AWS_ALLOW_HTTP": "true"} if over_http else None


def bucket_exists(bucket: str) -> bool:
    """Whether a bucket exists; True as well if the server does not say, as without access."""
    try:
        s3_filesystem().call_s3("head_bucket", Bucket=bucket)
    except FileNotFoundError:
        return False
    except Exception:  # no access or no connection: reading from it will report that
        return True
    return True
