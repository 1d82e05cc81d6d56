"""Objects in buckets of all clouds as files of users: looked for, opened, written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, Any

from fsspec.utils import glob_translate

from artimuse_actor.fetch.cloud import obstore_for, open_bucket, plain_errors, version_of
from artimuse_actor.fetch.fetch import fetch
from artimuse_actor.fetch.file_range import FileRange
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.uris import CLOUDS, origin_of, uri_scheme
from jobs.storage.ranged_file import open_ranged
from jobs.storage.s3_place import s3_filesystem


def open_object(uri: str) -> IO[bytes]:
    """Open an object for reading. Raises OSError."""
    if _in_cloud(uri):
        ranged: IO[bytes] = open_ranged(uri)
        return ranged
    file: IO[bytes] = s3_filesystem().open(uri, "rb")
    return file


def read_range(uri: str, start: int, end: int) -> bytes:
    """Some bytes of an object. Raises OSError or ImageError."""
    if _in_cloud(uri):
        return fetch(FileRange(uri, start, end - start), FetchOptions())
    data: bytes = s3_filesystem().cat_file(uri, start=start, end=end)
    return data


def put_file(path: str, uri: str) -> None:
    """Write a local file as an object, which appears whole. Raises OSError."""
    if _in_cloud(uri):
        store, key = open_bucket(uri)
        with plain_errors():
            obstore_for(uri).put(store, key, Path(path))
    else:
        s3_filesystem().put_file(path, uri)


def is_in_bucket(uri: str) -> bool:
    """Whether there is such an object, or one below such a prefix."""
    if not _in_cloud(uri):
        return bool(s3_filesystem().exists(uri))
    try:
        return bool(find_objects(uri, is_pattern=False))
    except FileNotFoundError:
        return False


def object_version(uri: str) -> str | None:
    """The etag of an object. Raises OSError."""
    if _in_cloud(uri):
        store, key = open_bucket(uri)
        with plain_errors():
            return version_of(obstore_for(uri).head(store, key))
    return str(s3_filesystem().info(uri).get("ETag", "")).strip('"') or None


def find_objects(uri: str, *, is_pattern: bool) -> dict[str, dict[str, Any]]:
    """Objects of a prefix, a name or a pattern: `bucket/key` → `size`, `type` and `ETag`, as s3fs has it.

    Raises:
        FileNotFoundError: there is no such bucket.
    """
    if not _in_cloud(uri):
        fs = s3_filesystem()
        found: dict[str, dict[str, Any]] = fs.glob(uri, detail=True) if is_pattern else fs.find(_name(uri), detail=True)
        return found
    with plain_errors():
        return _found(uri.rstrip("/"), is_pattern=is_pattern)


def bucket_exists(origin: str) -> bool:
    """Whether a bucket, `scheme://name`, exists; True as well if the server does not say, as without access."""
    try:
        if _in_cloud(origin):
            with plain_errors():
                next(iter(obstore_for(origin).list(open_bucket(origin)[0], chunk_size=1)), None)
        else:
            s3_filesystem().call_s3("head_bucket", Bucket=_name(origin))
    except FileNotFoundError:
        return False
    except Exception:  # no access or no connection: reading from it will report that
        return True
    return True


def _found(uri: str, *, is_pattern: bool) -> dict[str, dict[str, Any]]:
    store, key = open_bucket(uri)
    obstore = obstore_for(uri)
    fixed = re.split(r"[^/]*[*?[]", key, maxsplit=1)[0].rstrip("/") if is_pattern else key
    metas = [meta for page in obstore.list(store, fixed) for meta in page]
    if is_pattern:
        wanted = re.compile(glob_translate(key))
        metas = [meta for meta in metas if wanted.match(meta["path"])]
    elif not metas and key:
        try:
            metas = [obstore.head(store, key)]
        except FileNotFoundError:
            return {}
    bucket = _name(origin_of(uri))
    return {
        f"{bucket}/{meta['path']}": {"size": meta["size"], "type": "file", "ETag": version_of(meta) or ""}
        for meta in metas
    }


def _in_cloud(uri: str) -> bool:
    return uri_scheme(uri) in CLOUDS


def _name(uri: str) -> str:
    return uri.partition("://")[2]
