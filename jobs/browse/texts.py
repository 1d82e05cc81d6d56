"""The texts of a store: those of one picture, and the pictures whose texts contain some words.

They are gigabytes where rows are millions, so they stay in their files. A search reads all of them, a batch after the
other, and ends when a later one begins.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.browse.search import contains
from jobs.store.database import FILE_ROWS, open_database
from jobs.store.store import Store
from jobs.store.table_files import TableFiles
from schemas.scores import IMAGE_ID
from schemas.texts import texts_schema

_KEPT: Final = 4
_IDS: Final = pa.schema([IMAGE_ID])


class StoreTexts:
    """The texts of one store; its methods may be called from several threads."""

    def __init__(self, store: Store, files: TableFiles) -> None:
        """Read nothing yet."""
        self._store, self._files = store, files
        self._lock = threading.Lock()
        self._newest = 0
        self._found: OrderedDict[str, pa.Table] = OrderedDict()

    def containing(self, words: str) -> pa.Table | None:
        """The ids of pictures with a text that contains these words; None if a later search has begun meanwhile.

        Raises:
            StoreError: a file of the store is gone or not whole.
        """
        with self._lock:
            self._newest = mine = self._newest + 1
            if words in self._found:
                return self._found[words]
        parts = [_IDS.empty_table()]
        columns = list(self._store.texts.columns) if self._store.texts else []
        files = [(self._store.place, file) for file in self._files.described]
        if columns and files:
            assert self._store.texts is not None
            condition = " OR ".join(contains(name, words) for name in columns)
            with open_database() as database:
                database.add_files("texts", files, texts_schema(self._store.texts), rows=False)
                database.lock()
                # All rows, not only those that are found: between two batches a search can end.
                for batch in database.batches(f"SELECT image_id, {condition} AS found FROM texts"):
                    if self._newest != mine:
                        return None
                    found = pc.filter(batch.column("image_id"), batch.column("found").fill_null(False))
                    parts.append(pa.table([found.cast(pa.string())], schema=_IDS))
        ids = pa.concat_tables(parts)
        with self._lock:
            self._found[words] = ids
            while len(self._found) > _KEPT:
                self._found.popitem(last=False)
        return ids

    def of(self, number: int, image_id: str) -> dict[str, str]:
        """Title → text, of the picture of this number and id.

        Raises:
            FileNotFoundError: its file is gone.
        """
        scores = self._files.scores_paths
        path = self._files.texts_beside(scores[number >> FILE_ROWS]) if number >> FILE_ROWS < len(scores) else None
        if path is None or self._store.texts is None:
            return {}
        columns = self._store.texts.columns
        with self._store.place.open(path) as file:
            rows = pq.read_table(file, columns=list(columns), filters=pc.field("image_id") == image_id).to_pylist()
        return {title: row[name] for row in rows[:1] for name, title in columns.items() if row[name] is not None}
