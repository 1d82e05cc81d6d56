"""The files of a store's tables: their names, and one of them as it was read, to be replaced by a conditional write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from artimuse_actor.errors import StoreLocked
from jobs.storage.parquet import parquet_bytes, parquet_from
from jobs.storage.place import Place, StoredFile
from jobs.store.layout import texts_path


@dataclass(frozen=True)
class TableFiles:
    """The files of a store's tables, from one listing of each folder: on S3 a listing of many files is slow.

    Attributes:
        scores: scores files, one for each committed shard, sorted by path.
        texts: path → texts file; that of a shard that is just being committed may be among them.
        rows: rows of all scores files, if their footers were read.
    """

    scores: tuple[StoredFile, ...]
    texts: Mapping[str, StoredFile]
    rows: int | None = None

    @property
    def scores_paths(self) -> list[str]:
        """Paths of the scores files, sorted."""
        return [file.path for file in self.scores]

    def texts_beside(self, scores_path: str) -> str | None:
        """The texts file beside a scores file, if it is there."""
        path = texts_path(scores_path)
        return path if path in self.texts else None

    @property
    def described(self) -> list[StoredFile]:
        """Texts files whose scores file is there, in the order of the scores files."""
        return [self.texts[path] for scores in self.scores_paths if (path := self.texts_beside(scores))]


@dataclass(frozen=True)
class TableFile:
    """One file of a table as it was read.

    Attributes:
        place: the place of the store.
        path: its path.
        rows: its rows; None if there was no file.
        version: its version when it was read; None if there was no file.
    """

    place: Place
    path: str
    rows: pa.Table | None
    version: str | None

    @classmethod
    def read(cls, place: Place, path: str) -> TableFile:
        """Read a file that may not be there.

        Raises:
            BrokenFile: it is not a whole Parquet file.
        """
        found = place.read_version(path)
        if found is None:
            return cls(place, path, None, None)
        data, version = found
        return cls(place, path, parquet_from(data, place.uri(path)), version)

    @classmethod
    def unread(cls, place: Place, path: str) -> TableFile:
        """A file that is to be replaced, or created, whatever it has."""
        found = place.read_version(path)
        return cls(place, path, None, found and found[1])

    def replace(self, rows: pa.Table, metadata: Mapping[Any, Any], row_group_rows: int | None = None) -> None:
        """Write the file with these rows and metadata of its schema, if it is still as it was read.

        Raises:
            StoreLocked: another run has written it since.
        """
        data = parquet_bytes(rows.replace_schema_metadata(metadata), row_group_rows=row_group_rows)
        if not self.place.swap(self.path, data, self.version):
            raise StoreLocked(
                f"{self.place.uri(self.path)}: another run has written this file meanwhile, so it has taken the lock "
                "over. Nothing was overwritten. Run again when the other has ended."
            )
