"""The target of a library that writes a table by itself."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self

from artimuse_actor.errors import ExportError
from jobs.storage.places import open_place
from jobs.storage.s3_place import object_store_options


@dataclass(frozen=True)
class LibraryTarget:
    """A folder or prefix that a library writes to.

    Attributes:
        uri: as libraries take it: an absolute path, or an s3:// uri.
        options: of the library's own client.
        is_there: whether it has files.
    """

    uri: str
    options: dict[str, str] | None
    is_there: bool

    @classmethod
    def of(cls, out: str) -> Self:
        """The target `out`.

        Raises:
            ExportError: it is a file.
        """
        place = open_place(out)
        path = place.local_path("")
        if path and os.path.exists(path) and not os.path.isdir(path):
            raise ExportError(f"{out}: is a file. Choose another --out.")
        return cls(place.root, None if path else object_store_options(), bool(place.files("")))
