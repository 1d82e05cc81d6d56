"""Ids that are in the table twice: the commit protocol rules them out, but files can be put into `scores/` by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from artimuse_actor.errors import StoreError
from jobs.manifest.id_index import Hashes, IdIndex, hash_strings
from jobs.storage.parquet import read_parquet
from jobs.storage.place import READ_THREADS
from jobs.store.store import Store
from jobs.store.table_files import TableFiles


@dataclass(frozen=True)
class DoubledId:
    """An id that is in the table twice.

    Attributes:
        image_id: the id.
        first: one scores file with it.
        second: another one, or the same.
    """

    image_id: str
    first: str
    second: str

    def __str__(self) -> str:
        where = f"{self.first} and in {self.second}" if self.second != self.first else f"twice in {self.first}"
        return f"id {self.image_id!r} is in {where}"


def doubled_id(store: Store, files: TableFiles) -> DoubledId | None:
    """An id that is in the table twice; normally None."""

    def hashes(path: str) -> Hashes:
        return hash_strings(read_parquet(place, path, ["image_id"])["image_id"])

    place, paths = store.place, files.scores_paths
    with ThreadPoolExecutor(READ_THREADS) as pool:
        ids = list(pool.map(hashes, paths))
    if not ids or (double := IdIndex(np.concatenate(ids)).first_double()) is None:
        return None
    starts = np.cumsum([0, *map(len, ids)])
    first, second = (int(np.searchsorted(starts, position, side="right")) - 1 for position in double)
    column = read_parquet(place, paths[first], ["image_id"])["image_id"]
    image_id = column[double[0] - int(starts[first])].as_py()
    return DoubledId(image_id, place.uri(paths[first]), place.uri(paths[second]))


def refuse_doubles(store: Store, files: TableFiles) -> None:
    """Raise StoreError if an id is in the table twice; the message names both files."""
    if double := doubled_id(store, files):
        raise StoreError(f"{store.place.root}: {double}. Move one of these files away and run again.")
