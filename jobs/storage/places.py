"""The place of a store, from its path or uri."""

from __future__ import annotations

import os
from collections.abc import Callable

from artimuse_actor.errors import UsageError
from artimuse_actor.uris import BUCKETS, canonical_uri, uri_scheme, user_path
from jobs.storage.cloud_place import CloudPlace, GooglePlace
from jobs.storage.local_place import LocalPlace
from jobs.storage.place import Place
from jobs.storage.s3_place import S3Place


def open_place(root: str) -> Place:
    """The place that a local path, or a prefix of a bucket (s3://, gs://, az://), names.

    Raises:
        UsageError: it has another scheme.
    """
    root = canonical_uri(root)
    scheme = uri_scheme(root)
    if scheme == "file":
        return LocalPlace(os.path.abspath(user_path(root)))
    if scheme not in BUCKETS:
        raise UsageError(f"{root}: only local folders and s3://, gs:// and az:// prefixes can be written to.")
    if not root.partition("://")[2].strip("/"):
        raise UsageError(f"{root}: names no bucket. Write {scheme}://bucket/prefix.")
    kinds: dict[str, Callable[[str], Place]] = {"s3": S3Place, "gs": GooglePlace, "az": CloudPlace}
    return kinds[scheme](root.rstrip("/"))
