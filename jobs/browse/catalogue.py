"""The rows of a store as a table in memory, which is searched and sorted in a fraction of a second.

It has what a page shows but for the texts, and is as the store was when it was made. A search gives the numbers of its
rows in order, 8 bytes each; the last few are kept, and a page of rows is a slice of them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.browse.search import Search
from jobs.browse.texts import StoreTexts
from jobs.export.xmp.naming import ENDING
from jobs.store.database import ROW, identifier, open_database, quoted
from jobs.store.store import Store
from jobs.store.stores import Stores, StoresTables
from schemas.scores import IMAGE_ID

_KEPT_SEARCHES: Final = 4
_MOST_NAMES: Final = 200
_COLUMNS: Final = (
    *("image_id", "uri", "version", "status", "error_type", "error_message", "retryable", "width", "height", "format"),
    *("warning", "taken_at", "camera", "orientation", "run_id", "copied_from"),
)
_IDS: Final = pa.schema([IMAGE_ID])

Numbers = NDArray[np.int64]


class Catalogue:
    """The rows of one store; its methods may be called from several threads.

    Attributes:
        store: the store.
        edition: a number by which a page says which rows it knows.
        files: the files of its tables that were read.
        texts: its texts, which are not.
    """

    def __init__(self, store: Store, name: str, edition: int) -> None:
        """Read the rows.

        Raises:
            StoreError: a file of the store is gone or not whole.
        """
        self.store = store
        self.edition = edition
        self.files = store.table_files()
        self.texts = StoreTexts(store, self.files)
        self._lock = threading.Lock()
        self._searches: OrderedDict[Any, Numbers] = OrderedDict()
        with ExitStack() as stack:
            self._database = stack.enter_context(open_database())
            StoresTables(Stores((name,), (store,)), self._database)
            self._database.run(f"CREATE TABLE pictures AS SELECT {', '.join(self._columns())} FROM scores")
            self._database.lock()
            self._open = stack.pop_all()

    def close(self) -> None:
        """Give the memory back."""
        with self._lock:
            self._open.close()

    def _columns(self) -> list[str]:
        scores = [name for question in self.store.questions for name in (question, f"{question}_std")]
        scored_at = "make_timestamp(epoch_us(scored_at))"  # a cast would be to the time zone of this machine
        return [
            f"{identifier(ROW)} AS number",
            *map(identifier, (*_COLUMNS, *scores)),
            f"{scored_at} AS scored_at",
            f"coalesce(taken_at, {scored_at}) AS moment",
        ]

    def is_current(self) -> bool:
        """Whether the store's tables still are the files that were read."""
        return self.store.table_files() == self.files

    def summary(self) -> dict[str, Any]:
        """What the page needs to know of all rows."""
        with self._lock:
            ((rows, failed, taken, first, last),) = self._database.rows(
                "SELECT count(*), count(*) FILTER (WHERE status <> 'ok'), count(taken_at), min(moment)::DATE::VARCHAR, "
                "max(moment)::DATE::VARCHAR FROM pictures"
            )
            formats, errors = (self._names(column) for column in ("format", "error_type"))
        return {
            **{"rows": rows, "failed": failed, "taken": taken, "first_day": first, "last_day": last},
            **{"formats": formats, "errors": errors},
        }

    def _names(self, column: str) -> list[tuple[str, int]]:
        """The values of a column and how many rows have them, the most frequent first."""
        found: list[tuple[str, int]] = self._database.rows(
            f"SELECT {column}, count(*) AS rows FROM pictures WHERE {column} IS NOT NULL GROUP BY 1 "
            f"ORDER BY rows DESC, 1 LIMIT {_MOST_NAMES}"
        )
        return found

    def find(self, search: Search, marked: Sequence[str]) -> Numbers | None:
        """The numbers of the rows of a search, in its order; None if a later search has taken its turn.

        Args:
            search: the search.
            marked: ids of the marked pictures.
        """
        key = (search, tuple(marked) if search.marked else ())
        with self._lock:
            if key in self._searches:
                self._searches.move_to_end(key)
                return self._searches[key]
        in_texts = self.texts.containing(search.words) if search.asks_texts else _ids([])
        if in_texts is None:
            return None
        with self._lock:
            self._database.add_rows("found_in_texts", in_texts)
            self._database.add_rows("marked", _ids(marked if search.marked else ()))
            rows = self._database.table(
                f"SELECT number FROM pictures WHERE {search.condition('found_in_texts', 'marked')} "
                f"ORDER BY {search.order()}"
            )
            numbers = self._searches[key] = np.asarray(rows["number"].combine_chunks())
            while len(self._searches) > _KEPT_SEARCHES:
                self._searches.popitem(last=False)
        return numbers

    def rows(self, numbers: Iterable[int], columns: Sequence[str] = ("*",)) -> list[dict[str, Any]]:
        """The rows of these numbers, in this order; those that are not there are left out."""
        wanted = [int(number) for number in numbers]
        if not wanted:
            return []
        with self._lock:
            found = self._database.table(
                f"SELECT number, {', '.join(columns)} FROM pictures WHERE number IN ({', '.join(map(str, wanted))})"
            )
        by_number = {row["number"]: row for row in found.to_pylist()}
        return [by_number[number] for number in wanted if number in by_number]

    def marked_rows(self, ids: Sequence[str]) -> pa.Table:
        """The rows of these ids, in the order of the store; those that are not there are left out."""
        with self._lock:
            self._database.add_rows("marked", _ids(ids))
            return self._database.table(
                "SELECT * FROM pictures WHERE image_id IN (SELECT image_id FROM marked) ORDER BY number"
            )

    def files_of(self, ids: Sequence[str]) -> list[tuple[str | None, bool]]:
        """The uris of these ids, and whether another picture has the same name but for its end."""
        stem = f"regexp_replace(uri, {quoted(ENDING)}, '')"
        with self._lock:
            self._database.add_rows("marked", _ids(ids))
            found: list[tuple[str | None, bool]] = self._database.rows(
                f"SELECT uri, sharing > 1 FROM (SELECT image_id, uri, count(*) OVER (PARTITION BY {stem}) AS sharing "
                "FROM pictures) WHERE image_id IN (SELECT image_id FROM marked)"
            )
        return found

    def ids_of(self, numbers: Numbers) -> list[str]:
        """The ids of rows, but for those whose image was embedded in a table, so that no manifest can name it."""
        with self._lock:
            self._database.add_rows("numbers", pa.table({"number": numbers}))
            rows = self._database.table(
                "SELECT image_id FROM pictures WHERE uri IS NOT NULL AND number IN (SELECT number FROM numbers)"
            )
        ids: list[str] = rows["image_id"].to_pylist()
        return ids


def _ids(ids: Iterable[str]) -> pa.Table:
    return pa.table([pa.array(list(ids), pa.string())], schema=_IDS)
