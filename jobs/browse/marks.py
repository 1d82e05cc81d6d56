"""The pictures that a person has marked, and the manifest of them."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from artimuse_actor.errors import UsageError
from jobs.browse.catalogue import Catalogue
from jobs.curate.row_writers import open_row_file
from jobs.storage.user_files import is_there, open_source, other_file, write_user_file
from schemas.manifest import MANIFEST
from schemas.scores import score_fields

MOST: Final = 1_000_000
_OURS: Final = b"artimuse.marks"
_KEYS: Final = ("image_id", "uri", "version")


class Marks:
    """Ids of marked pictures; its methods may be called from several threads.

    Attributes:
        file: the manifest that always has them; None for none.
        unsaved: whether there are marks that no file has.
    """

    def __init__(self, file: str | None) -> None:
        """Read the marks of a file that is there already.

        Raises:
            UsageError: it is no file of marks; one of another kind would be replaced.
        """
        self.file = file
        self.unsaved = False
        self._lock = threading.Lock()
        self._ids: dict[str, None] = dict.fromkeys(_ids_in(file)) if file is not None and is_there(file) else {}

    @property
    def ids(self) -> list[str]:
        """The marked ids."""
        with self._lock:
            return list(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._ids

    def change(self, ids: Sequence[str], catalogue: Catalogue, *, marked: bool) -> None:
        """Mark pictures, or take their marks away; the file follows.

        Raises:
            UsageError: there would be too many.
            StoreError: the file cannot be written.
        """
        with self._lock:
            after = {**self._ids, **dict.fromkeys(ids)} if marked else self._without(ids)
            if len(after) > MOST:
                raise UsageError(f"At most {MOST:,} pictures can be marked. `artimuse curate` chooses more.")
            if self.file is not None:
                with write_user_file(self.file) as path:
                    write_manifest(path, catalogue, list(after))
            self._ids, self.unsaved = after, self.file is None and bool(after)

    def _without(self, ids: Sequence[str]) -> dict[str, None]:
        gone = set(ids)
        return {image_id: None for image_id in self._ids if image_id not in gone}

    def manifest(self, catalogue: Catalogue) -> bytes:
        """The marked pictures as a manifest, in Parquet."""
        file = io.BytesIO()
        write_manifest(file, catalogue, self.ids)
        self.unsaved = False
        return file.getvalue()


def write_manifest(target: Any, catalogue: Catalogue, ids: Sequence[str]) -> None:
    """Write pictures as a manifest that `artimuse score` takes: their ids, uris and versions, and their scores."""
    store = catalogue.store
    fields = [MANIFEST.field(name) for name in _KEYS]
    fields += score_fields(store.questions, keep_distribution=False)
    schema = pa.schema([field.with_nullable(True) for field in fields])
    rows = catalogue.marked_rows(ids)
    file = open_row_file("parquet", target, schema)
    file.write(rows.select(schema.names).cast(schema))
    file.close({_OURS: b"1"})


def _ids_in(file: str) -> list[str]:
    try:
        with open_source(file) as source:
            parquet = pq.ParquetFile(source)
            if _OURS not in (parquet.metadata.metadata or {}) and not _is_of_before(parquet.schema_arrow):
                raise other_file("--marks", file, "file of marks")
            ids: list[str] = parquet.read(["image_id"])["image_id"].to_pylist()
            return ids
    except (OSError, pa.ArrowException) as error:
        raise UsageError(
            f"--marks {file}: is there, and is no manifest of marks: {error}. Name another file."
        ) from error


def _is_of_before(schema: pa.Schema) -> bool:
    """Whether it is a file of marks of a version that left no mark of its own: it holds nothing but what these hold."""
    columns, scores = schema.names[: len(_KEYS)], schema.names[len(_KEYS) :]
    pairs = [name for score in scores[::2] for name in (score, f"{score}_std")]
    floats = all(pa.types.is_float32(schema.field(name).type) for name in scores)
    return columns == list(_KEYS) and bool(scores) and scores == pairs and floats
