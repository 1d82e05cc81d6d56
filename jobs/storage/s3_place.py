"""A prefix of a bucket of S3 as the place of a store."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import IO, Any, Final

import fsspec

from artimuse_actor.fetch.s3_errors import s3_error_code
from jobs.storage.bucket_place import BucketPlace
from jobs.storage.place import StoredFile, changes, says_where

_MOST_DELETED: Final = 1000  # by one request
_EXISTS: Final = ("PreconditionFailed", "ConditionalRequestConflict")


@dataclass(frozen=True)
class S3Place(BucketPlace):
    """See `BucketPlace`."""

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

    def put_if(self, path: str, data: bytes, version: str | None) -> bool:
        """See `BucketPlace`: of up to 5 GiB; s3fs would send a large file in parts, without the condition."""
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        bucket, _, key = self.uri(path).removeprefix("s3://").partition("/")
        try:
            s3_filesystem().call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
        except OSError as error:
            is_gone = isinstance(error, FileNotFoundError) and "IfMatch" in condition
            if is_gone or isinstance(error, FileExistsError) or s3_error_code(error) in _EXISTS:
                return False
            raise
        return True

    @says_where
    def read_age(self, path: str) -> tuple[bytes, str, float] | None:
        """See `BucketPlace`."""
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
        bucket, _, prefix = self.root.removeprefix("s3://").partition("/")
        keys = [{"Key": f"{prefix}/{file.path}".lstrip("/")} for file in self.files(folder)]
        for start in range(0, len(keys), _MOST_DELETED):  # s3fs takes names for patterns here
            deleted = {"Objects": keys[start : start + _MOST_DELETED], "Quiet": True}
            s3_filesystem().call_s3("delete_objects", Bucket=bucket, Delete=deleted)


def s3_filesystem() -> Any:
    """s3fs without any cache of listings, configured by the environment (AWS_ENDPOINT_URL and the like)."""
    return fsspec.filesystem("s3", use_listings_cache=False)


def object_store_options() -> dict[str, str] | None:
    """Options of libraries with S3 clients of their own, which refuse plain HTTP unless told."""
    over_http = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return {"AWS_ALLOW_HTTP": "true"} if over_http else None
