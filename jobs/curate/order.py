"""The order of the rows that are written: as in the store or the manifest, or the best first."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from artimuse_actor.errors import UsageError
from jobs.curate.candidates import CHOSEN_SCORES, Candidates
from jobs.store.database import Database

STORE: Final = "store"
SCORE: Final = "score"
_RANKS: Final = f"""
SELECT row_number() OVER (ORDER BY chosen.points DESC, image_id) - 1 AS rank FROM {CHOSEN_SCORES} ORDER BY chosen.row
"""


def read_order(text: str) -> str:
    """The value of `--order`. Raises UsageError."""
    if text not in (STORE, SCORE):
        raise UsageError(f"--order takes {STORE} or {SCORE}, not {text!r}.")
    return text


class BestFirst:
    """Candidates whose chosen rows come best first; of equal scores the smaller id, in order of bytes."""

    def __init__(self, candidates: Candidates, database: Database) -> None:
        self._candidates = candidates
        self._database = database
        self.schema = candidates.schema
        self.own = candidates.own
        self.beside = candidates.beside
        self.own_image = candidates.own_image

    def sql(self, names: frozenset[str]) -> str:
        """See `Candidates`."""
        return self._candidates.sql(names)

    def explained(self) -> AbstractContextManager[None]:
        """See `Candidates`."""
        return self._candidates.explained()

    def scan(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """See `Candidates`."""
        ranks = np.concatenate([np.asarray(batch["rank"]) for batch in self._database.batches(_RANKS)])
        yield from in_order(self._candidates.scan(columns), np.argsort(ranks))


def in_order(tables: Iterator[pa.Table], places: NDArray[np.int64]) -> Iterator[pa.Table]:
    """The rows at these places, through a temporary file: rows with images are more than memory holds.

    Args:
        tables: of one schema.
        places: counted from the first row of all tables.
    """
    with tempfile.TemporaryDirectory(prefix="artimuse-") as folder:
        batches = _read_again(tables, os.path.join(folder, "rows.arrow"))
        starts = np.cumsum([0, *map(len, batches)])
        size = max(map(len, batches), default=1)
        for first in range(0, len(places), size):
            wanted = places[first : first + size]
            ascending = np.argsort(wanted)
            here = wanted[ascending]
            of_batch = np.searchsorted(starts, here, side="right") - 1
            # Each batch by itself: all values of a column together may be more than Arrow's offsets can count.
            parts = [
                batches[number].take(pa.array(here[of_batch == number] - starts[number]))
                for number in np.unique(of_batch)
            ]
            yield pa.Table.from_batches(parts).take(pa.array(np.argsort(ascending)))


def _read_again(tables: Iterator[pa.Table], path: str) -> list[pa.RecordBatch]:
    """Batches of a file in memory that the system pages in and out."""
    writer = None
    with pa.OSFile(path, "wb") as file:
        for table in tables:
            writer = writer or pa.ipc.new_stream(file, table.schema)
            writer.write_table(table)
        if writer:
            writer.close()
    if not writer:
        return []
    found: list[pa.RecordBatch] = pa.ipc.open_stream(pa.memory_map(path)).read_all().unify_dictionaries().to_batches()
    return found
