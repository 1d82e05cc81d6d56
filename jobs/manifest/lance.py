"""Lance data sets as tables: their newest version, by their own package."""

from __future__ import annotations

import os
from typing import Final

from artimuse_actor.errors import ManifestError, UsageError, message_of
from artimuse_actor.uris import user_path
from jobs.manifest.listing import ListedFile
from jobs.storage.user_files import is_remote
from jobs.storage.user_tables import LANCE, open_lance

_HUB: Final = "hf://"


def lance_table(source: str) -> ListedFile | None:
    """The table that a folder or prefix called `.lance` is; None if the source is something else.

    Raises:
        UsageError: the package `pylance` is not installed.
        ManifestError: it cannot be read.
    """
    path = source.rstrip("/")
    if not path.lower().endswith(LANCE) or path.startswith(_HUB):
        return None
    if not is_remote(path):
        path = os.path.abspath(user_path(path))
        if not os.path.isdir(path):
            return None
    try:
        version = open_lance(path).version
    except ImportError as error:
        raise UsageError(
            f"{source}: is a Lance data set. Install the package `pylance` to read it, or write what it holds now as "
            "Parquet."
        ) from error
    except OSError as error:
        raise ManifestError(f"{source}: cannot be read as a Lance data set: {message_of(error)}.") from error
    return ListedFile(path, os.path.basename(path), None, str(version))
