"""A prefix of a bucket on Google Cloud Storage or Azure as the place of a store."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, ClassVar

from artimuse_actor.fetch.cloud import obstore_for, open_bucket, plain_errors, version_of
from jobs.storage.bucket_place import BucketPlace
from jobs.storage.local_place import TEMPORARY
from jobs.storage.place import READ_THREADS, StoredFile, changes, says_where
from jobs.storage.ranged_file import open_ranged


@dataclass(frozen=True)
class CloudPlace(BucketPlace):
    """See `BucketPlace`; read and written by obstore, which tries again by itself."""

    @says_where
    def read(self, path: str) -> bytes:
        """See `Place`."""
        return self._read(path)[0]

    @says_where
    def read_range(self, path: str, start: int, size_bytes: int) -> bytes:
        """See `Place`."""
        answer = self._asked("get", path, options={"range": (start, start + size_bytes)})
        with plain_errors():
            return bytes(answer.bytes())

    @says_where
    def open(self, path: str) -> IO[bytes]:
        """See `Place`."""
        file: IO[bytes] = open_ranged(self.uri(path))
        return file

    @changes
    def write(self, path: str, data: bytes) -> None:
        """See `Place`."""
        self._put(path, data, "overwrite")

    def put_if(self, path: str, data: bytes, version: str | None) -> bool:
        """See `BucketPlace`."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            self._put(path, data, "create" if version is None else self._condition(version))
        except (AlreadyExistsError, PreconditionError):
            return False
        except FileNotFoundError:  # the file; or, if it was to be made, the bucket
            if version is None:
                raise
            return False
        return True

    @says_where
    def read_version(self, path: str) -> tuple[bytes, str] | None:
        """See `Place`."""
        try:
            data, meta = self._read(path)
        except FileNotFoundError:
            return None
        return data, self._version(meta)

    @says_where
    def read_age(self, path: str) -> tuple[bytes, str, float] | None:
        """See `BucketPlace`: what the time is, an object that is written now says."""
        try:
            data, meta = self._read(path)
        except FileNotFoundError:
            return None
        if not data:  # of nobody, however old
            return data, self._version(meta), 0.0
        now = f"{TEMPORARY}/{uuid.uuid4().hex}"
        self._put(now, b"", "overwrite")
        try:
            age = self._asked("head", now)["last_modified"] - meta["last_modified"]
        finally:
            self.delete(now)
        return data, self._version(meta), age.total_seconds()

    @says_where
    def files(self, folder: str) -> list[StoredFile]:
        """See `Place`."""
        root = open_bucket(self.root)[1]
        pages = self._asked("list", folder)
        with plain_errors():
            found = [meta for page in pages for meta in page]
        return sorted(
            (StoredFile(meta["path"].removeprefix(f"{root}/"), meta["size"], version_of(meta) or "") for meta in found),
            key=lambda file: file.path,
        )

    @changes
    def delete(self, path: str) -> None:
        """See `Place`."""
        with suppress(FileNotFoundError):
            self._asked("delete", path)

    @changes
    def delete_tree(self, folder: str) -> None:
        """See `Place`."""
        with ThreadPoolExecutor(READ_THREADS) as pool:
            list(pool.map(self.delete, [file.path for file in self.files(folder)]))

    def _read(self, path: str) -> tuple[bytes, Any]:
        answer = self._asked("get", path)
        with plain_errors():
            return bytes(answer.bytes()), answer.meta

    def _put(self, path: str, data: bytes, mode: Any) -> None:
        self._asked("put", path, data, mode=mode, use_multipart=False)

    def _asked(self, function: str, path: str, *args: Any, **options: Any) -> Any:
        store, key = open_bucket(self.uri(path).rstrip("/"))
        with plain_errors():
            return getattr(obstore_for(self.root), function)(store, key, *args, **options)

    def _condition(self, version: str) -> dict[str, str]:
        return {"e_tag": version}

    def _version(self, meta: Any) -> str:
        return str(meta["e_tag"])


class GooglePlace(CloudPlace):
    """See `CloudPlace`: a version is a generation of the object."""

    no_version: ClassVar[str] = "1"

    def _condition(self, version: str) -> dict[str, str]:
        return {"version": version}

    def _version(self, meta: Any) -> str:
        return str(meta["version"])
