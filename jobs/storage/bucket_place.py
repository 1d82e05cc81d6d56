"""A prefix of a bucket of any cloud as the place of a store, and the lock that its runs renew there."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import ClassVar, Final

from artimuse_actor.errors import StoreError
from jobs.storage.place import Claim, Rooted, changes, clock_s, says_where

_TAKE_ATTEMPTS: Final = 20
_PAUSE_S: Final = 0.25


@dataclass(frozen=True)
class BucketPlace(Rooted):
    """A prefix of a bucket, with the endpoint and credentials of the environment; conditional PUTs change files.

    Attributes:
        no_version: a version that no file has.
    """

    no_version: ClassVar[str] = '"0"'

    def uri(self, path: str) -> str:
        """See `Place`."""
        return f"{self.root}/{path}"

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """See `Place`."""

    @abstractmethod
    def put_if(self, path: str, data: bytes, version: str | None) -> bool:
        """One PUT if the file has this version, or, with None, if there is none; False if not."""

    @abstractmethod
    def read_age(self, path: str) -> tuple[bytes, str, float] | None:
        """The file, its version, and the seconds since it was written; None if there is no file.

        Both times are the server's, so that no clock of ours matters; without them the file counts as new.
        """

    def write_private(self, path: str, data: bytes) -> None:
        """See `Place`: who may read a bucket is the bucket's own matter."""
        self.write(path, data)

    @changes
    def create(self, path: str, data: bytes) -> bool:
        """See `Place`."""
        return self.put_if(path, data, None)

    @changes
    def swap(self, path: str, data: bytes, version: str | None) -> bool:
        """See `Place`: a conditional PUT."""
        if self.put_if(path, data, version):
            return True
        found = self.read_version(path)
        return found is not None and found[0] == data

    @says_where
    def read_version(self, path: str) -> tuple[bytes, str] | None:
        """See `Place`."""
        found = self.read_age(path)
        return found and found[:2]

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


class _Lease:
    """The lock of one owner in a bucket: an object that only conditional PUTs change."""

    def __init__(self, place: BucketPlace, path: str, claim: Claim) -> None:
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
        if place.create(path, claim.owner()) or place.swap(path, claim.owner(), place.no_version):
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
