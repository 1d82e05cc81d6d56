"""The place of a store, from its path or uri."""

from __future__ import annotations

import os
import re

from artimuse_actor.errors import UsageError
from artimuse_actor.uris import user_path
from jobs.storage.local_place import LocalPlace
from jobs.storage.place import Place
from jobs.storage.s3_place import S3Place


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
    return LocalPlace(os.path.abspath(user_path(root)))
