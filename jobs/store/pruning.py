"""Pruning: rows whose images the source no longer has are dropped from the tables, file by file."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from jobs.manifest.id_index import IdIndex, hash_strings
from jobs.storage.parquet import read_parquet
from jobs.storage.place import READ_THREADS, Place
from jobs.store.layout import texts_path
from jobs.store.plan_file import end_plan, unfinished_pruning
from jobs.store.store import Store
from jobs.store.table_files import TableFile
from schemas.scores import FENCE_KEY


def fence_pruning(place: Place) -> None:
    """Give files that a run was pruning when it lost its lock another version, so that it cannot write them any more.

    It may have been suspended right before a write, and its manifest knows nothing of the rows that this run keeps. On
    a disk a lock ends with its process.
    """
    paths = unfinished_pruning(place)
    for path in paths if place.local_path("") is None else ():
        for part in (path, texts_path(path)):
            file = TableFile.read(place, part)
            if file.rows is not None:
                file.replace(file.rows, {**file.rows.schema.metadata, FENCE_KEY: secrets.token_hex(8)})
    if paths:
        end_plan(place)


def keep_only(store: Store, ids: IdIndex) -> int:
    """Drop the rows of all other ids, file by file; the caller must have the store's lock.

    A file without rows left stays, empty: readers that have just listed it can read it. Texts are dropped first, so
    that no texts are left without a score. The current plan counts rows that will be gone, so it ends before that.

    Returns:
        The number of rows dropped from the scores table.
    """
    place, dropped = store.place, 0
    files = store.table_files()

    def others(path: str) -> bool:
        return bool((ids.find(hash_strings(read_parquet(place, path, ["image_id"])["image_id"])) < 0).any())

    with ThreadPoolExecutor(READ_THREADS) as pool:
        paths = [
            path for path, some in zip(files.scores_paths, pool.map(others, files.scores_paths), strict=True) if some
        ]
    if not paths:
        return 0
    end_plan(place, pruning=paths)
    for path in paths:
        scores = TableFile.read(place, path)
        if scores.rows is None:
            continue
        kept = scores.rows.filter(pa.array(ids.find(hash_strings(scores.rows["image_id"])) >= 0))
        texts = TableFile.read(place, texts_path(path))
        if texts.rows is not None:
            mine = pc.is_in(texts.rows["image_id"], kept["image_id"].combine_chunks())
            texts.replace(texts.rows.filter(mine), texts.rows.schema.metadata)
        scores.replace(kept, scores.rows.schema.metadata)
        dropped += len(scores.rows) - len(kept)
    end_plan(place)
    return dropped
