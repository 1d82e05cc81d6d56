"""What is done to the files of a store beside filling it: mending, pruning, compaction."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from artimuse_actor.errors import StoreError
from jobs.manifest.id_index import IdIndex, hash_strings
from jobs.plan.plan import CURRENT_PLAN, SHARD_ROWS
from jobs.storage.parquet import parquet_bytes, read_parquet
from jobs.storage.place import READ_THREADS, TEMPORARY, open_place
from jobs.store.lock import run_lock
from jobs.store.run_record import new_run_id
from jobs.store.store import Store, texts_path

BROKEN: Final = "_broken"
_COMPACTED: Final = "scores/compacted-{:05}.parquet"


def heal(store: Store) -> list[str]:
    """Put right what faults have left: only under the lock of the store.

    Files of the tables that are cut short are moved out of the way, so that their rows are pending again; texts whose
    scores were never written or are gone are deleted.

    Returns:
        A sentence about each file that was moved.
    """
    place = store.place
    place.delete_tree(TEMPORARY)  # of runs that were killed while they wrote
    paths = [*(file.path for file in store.scores_files()), *sorted(store.texts_files())]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        broken = [path for path, whole in zip(paths, pool.map(store.is_whole, paths), strict=True) if not whole]
    for path in broken:
        place.write(f"{BROKEN}/{path}", place.read(path))
        place.delete(path)
    for path in store.texts_files() - {texts_path(file.path) for file in store.scores_files()}:
        place.delete(path)
    return [f"{place.uri(path)}: was cut short and lies in {BROKEN} now; its rows are made anew." for path in broken]


def keep_only(store: Store, ids: IdIndex) -> int:
    """Drop the rows of all other ids, file by file: only under the lock of the store.

    A file of which nothing is left is deleted. Texts go first, so that no texts are left without a score.

    Returns:
        How many rows of the scores table that were.
    """
    place, dropped = store.place, 0
    for file in store.scores_files():
        table = read_parquet(place, file.path)
        kept = table.filter(pa.array(ids.find(hash_strings(table["image_id"])) >= 0))
        if len(kept) == len(table):
            continue
        dropped += len(table) - len(kept)
        texts = texts_path(file.path)
        if texts in store.texts_files():
            told = read_parquet(place, texts)
            mine = pc.is_in(told["image_id"], kept["image_id"].combine_chunks())
            place.write(texts, parquet_bytes(told.filter(mine)))
        if len(kept):
            place.write(file.path, parquet_bytes(kept))
        else:
            place.delete(file.path)
            place.delete(texts)
    if dropped:
        place.delete(CURRENT_PLAN)  # it counts rows that are no longer there
    return dropped


@dataclass(frozen=True)
class Compaction:
    """What was merged.

    Attributes:
        rows: of the scores table, before and after.
        files_before: scores files of the old store.
        files_after: scores files of the new store.
    """

    rows: int
    files_before: int
    files_after: int


def compact(out: str, new: str, shard_rows: int = SHARD_ROWS) -> Compaction:
    """Write the rows of a store, in the same order, into a new store of few files.

    A row never moves within a store, so nothing is merged in place: a reader would meet rows twice, or not at all. The
    new store is declared last. Until then it is none, and another attempt writes the same files again.

    Args:
        out: the store; it stays as it is.
        new: where the new store goes.
        shard_rows: rows of each file but the last.

    Raises:
        StoreError: there is no store, a file of it is not whole, there is one at `new`, or the rows differ.
        StoreLocked: a run is writing to one of them.
    """
    old = Store.open(out)
    store = Store(open_place(new), old.fingerprint, old.questions, old.keep_distribution, old.texts)
    if store.is_declared():
        raise StoreError(f"{new}: is a store already. Name a new folder or prefix with --out.")
    run_id = new_run_id()
    with run_lock(old.place, run_id), run_lock(store.place, run_id) as lock:
        for path in (*(file.path for file in store.scores_files()), *store.texts_files()):
            store.place.delete(path)  # of an attempt that was killed
        files = 0
        for scores, texts in _shards(old, shard_rows):
            lock.check()
            store.write_tables(_COMPACTED.format(files), scores, texts, made_by=run_id)
            files += 1
        if store.counts() != old.counts():
            raise StoreError(f"{new}: does not hold the same rows as {out}, and was not declared. Run again.")
        store.declare()
    return Compaction(store.row_count(), len(old.scores_files()), files)


def _shards(store: Store, shard_rows: int) -> Iterator[tuple[pa.Table, pa.Table | None]]:
    """The rows of a store, cut anew; with the texts of the same images, if it has texts."""
    texts_files = store.texts_files()
    scores: list[pa.Table] = []
    texts: list[pa.Table] = []
    files = [file.path for file in store.scores_files()]
    for number, path in enumerate(files, start=1):
        scores.append(read_parquet(store.place, path))
        if texts_path(path) in texts_files:
            texts.append(read_parquet(store.place, texts_path(path)))
        while (rows := sum(table.num_rows for table in scores)) >= shard_rows or (rows and number == len(files)):
            table = pa.concat_tables(scores)
            shard, scores = table.slice(0, shard_rows).combine_chunks(), [table.slice(shard_rows)]
            told = None
            if texts:
                all_texts = pa.concat_tables(texts)
                mine = pc.is_in(all_texts["image_id"], shard["image_id"].combine_chunks())
                told, texts = all_texts.filter(mine), [all_texts.filter(pc.invert(mine))]
            yield shard, told
