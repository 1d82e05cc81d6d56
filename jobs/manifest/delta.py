"""The files of a Delta table that hold its rows now: its log names them, and the others are of earlier versions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote

from artimuse_actor.errors import ManifestError, UsageError, message_of
from artimuse_actor.uris import user_path
from jobs.manifest.listing import ListedFile
from jobs.storage.s3_place import object_store_options
from jobs.storage.user_files import is_remote

LOG: Final = "_delta_log"
_NEEDS_MORE: Final = ("deletionVectors", "columnMapping")


def is_delta(listed: Sequence[ListedFile]) -> bool:
    """Whether a folder or prefix is a Delta table."""
    return any(file.image_id.startswith(f"{LOG}/") for file in listed)


def current_files(source: str, listed: Sequence[ListedFile]) -> list[ListedFile]:
    """Those of the listed files that the newest version of the table is made of.

    Raises:
        UsageError: the package `deltalake` is not installed, or the table has more to it than files.
        ManifestError: its log cannot be read, or names a file that is not there.
    """
    try:
        from deltalake import DeltaTable
    except ImportError as error:
        raise UsageError(
            f"{source}: is a Delta table, whose files alone do not say which rows were removed. Install the package "
            "`deltalake` to read its log, or write what it holds now as Parquet."
        ) from error
    try:
        table = DeltaTable(
            source if is_remote(source) else os.path.abspath(user_path(source)),
            storage_options=object_store_options() if is_remote(source) else None,
        )
        features = {*(table.protocol().reader_features or ())}
        if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
            features.add("columnMapping")
        named = {unquote(uri) for uri in table.file_uris()}
    except Exception as error:  # the package has errors of its own, without a common base
        raise ManifestError(f"{source}: its Delta log cannot be read: {message_of(error)}.") from error
    if more := features.intersection(_NEEDS_MORE):
        raise UsageError(
            f"{source}: this Delta table has {' and '.join(sorted(more))}, so its files alone do not say what its "
            "rows are. Write what it holds now as Parquet, and name that."
        )
    found = [file for file in listed if unquote(file.path) in named]
    if len(found) < len(named):
        raise ManifestError(f"{source}: {len(named) - len(found)} files of its Delta log are not there.")
    return found
