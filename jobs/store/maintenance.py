"""Maintenance of a store's files: repair and compaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from artimuse_actor.errors import BrokenFile, StoreError, StoreMismatch
from jobs.plan.plan import SHARD_ROWS
from jobs.storage.local_place import TEMPORARY
from jobs.storage.parquet import read_footer, read_parquet
from jobs.storage.place import READ_THREADS, Place, read_listed
from jobs.storage.places import open_place
from jobs.store.counts import with_scores
from jobs.store.layout import RUNS, SCORES, broken_path, compacted_path, is_run_path, texts_path, work_of
from jobs.store.listing import refuse_lagging_listing
from jobs.store.lock import run_lock
from jobs.store.plan_file import abandon_plan, current_plan, end_plan
from jobs.store.precision import stored_precisions
from jobs.store.pruning import fence_pruning
from jobs.store.run_record import new_run_id
from jobs.store.store import Store, keep_out_of_stores
from jobs.store.stores import Stores, doubled_between
from jobs.store.table_files import TableFile, TableFiles
from schemas.texts import texts_schema

FILE_BYTES: Final = 128_000_000
"""Size of a compacted file, or of the texts file beside it if that is larger: readers like few and large files, and a
row that changes later has its whole file written again."""


def heal(store: Store) -> tuple[TableFiles, list[str]]:
    """Repair what faults have left; the caller must have the store's lock.

    Files of the tables that are cut short are moved to `_broken/`, so that their rows are pending again. Texts whose
    scores were never written, or are gone, are dropped, and the work of plans that are not the current one is deleted.

    Returns:
        The files of the tables that are left, and a sentence about each file that was moved.
    """
    place = store.place
    place.delete_tree(TEMPORARY)  # unfinished files of runs that were killed
    fence_pruning(place)
    files = store.table_files()
    refuse_lagging_listing(place, files)
    paths = [*files.scores_paths, *sorted(files.texts)]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        rows = dict(zip(paths, pool.map(lambda path: _rows_if_whole(place, path), paths), strict=True))
    broken = [path for path, count in rows.items() if count is None]
    beside_scores = {texts_path(path) for path in files.scores_paths if path not in broken}
    gone = set(files.texts).difference(beside_scores, broken)
    without_scores = [path for path in gone if rows[path]]
    if (broken or without_scores) and place.local_path("") is None:
        abandon_plan(place)  # it counts their rows, and would not miss the texts of scores that are there again
    for path in without_scores:  # dropped first: then a kill leaves no texts without scores
        _drop(store, path)
    for path in broken:
        place.write(broken_path(path), read_listed(place, path))
        if not _drop(store, path):
            gone.add(path)
    _delete_abandoned_work(place)
    notes = [
        f"{place.uri(path)}: was cut short and lies in {broken_path('')} now; its rows are made again."
        for path in broken
    ]
    scores = tuple(file for file in files.scores if file.path not in gone)
    texts = {path: file for path, file in files.texts.items() if path not in gone}
    return TableFiles(scores, texts, sum(rows[file.path] or 0 for file in scores)), notes


def _drop(store: Store, path: str) -> bool:
    """Take a file's rows out of the tables; returns whether it stays, without rows.

    On S3 it stays, or is made, without rows, by a conditional write: a run that was suspended right before a DELETE
    would delete what the next run has written under this name. On a disk a lock ends with its process.
    """
    is_scores = path.startswith(f"{SCORES}/")
    schema = store.schema if is_scores else texts_schema(store.texts) if store.texts else None
    if schema is None or store.place.local_path("") is not None:
        store.place.delete(path)
        return False
    emptied = TableFile.unread(store.place, path), schema.empty_table()
    store.replace_tables(emptied if is_scores else None, None if is_scores else emptied, made_by="repair")
    return True


def _rows_if_whole(place: Place, path: str) -> int | None:
    try:
        return int(read_footer(place, path).num_rows)
    except BrokenFile:
        return None


def _delete_abandoned_work(place: Place) -> None:
    """Delete the work folders of runs that were killed before they could: they hold uris, and their plans are gone."""
    current = current_plan(place)
    for plan_id, folders in work_of(file.path for file in place.files(RUNS)).items():
        if current is None or plan_id != current.plan_id:
            for folder in folders:
                place.delete_tree(folder)


@dataclass(frozen=True)
class Compaction:
    """The result of a compaction or merge.

    Attributes:
        rows: rows of the scores table, the same before and after.
        files_before: scores files of the old stores.
        files_after: scores files of the new store.
        unfinished: root of an old store → planned rows that are not in its tables, and so not in the new store.
    """

    rows: int
    files_before: int
    files_after: int
    unfinished: Mapping[str, int]


def compact(outs: Sequence[str], new: str, shard_rows: int | None = None, *, by_score: bool = False) -> Compaction:
    """Write the rows of stores, in the same order, into a new store with few files.

    Files are not merged in place: a reader would see rows twice, or not at all. The new store is declared last; until
    then it is not a store, and another attempt writes the same files again.

    Args:
        outs: the stores; they are not changed.
        new: folder or prefix of the new store.
        shard_rows: rows of each file but the last; None for about `FILE_BYTES`.
        by_score: sort the rows of each file, the highest of the protocol's first score first: who asks for high scores
            passes over most row groups by their statistics.

    Raises:
        StoreError: there is no store, a file of it is not whole, `new` is a store already, an id is in two stores, or
            the rows differ.
        StoreMismatch: the stores are of different fingerprints, or have different texts.
        StoreLocked: a run is writing to one of them.
    """
    keep_out_of_stores(new)
    opened = Stores.open(outs)
    olds = opened.stores
    with_texts = [old for old in olds if old.texts]
    if other := next((old for old in with_texts if old.texts != with_texts[0].texts), None):
        raise StoreMismatch(
            f"{with_texts[0].place.root} holds texts ({with_texts[0].texts}), {other.place.root} others "
            f"({other.texts}). Nothing was written. Keep them apart."
        )
    # The new store has no records of the runs that an old description leaves the precision to.
    precisions = sorted({precision for old in olds for precision in stored_precisions(old)})
    store = Store(
        open_place(new),
        replace(olds[0].fingerprint, precision="+".join(precisions) or None),
        olds[0].questions,
        all(old.keep_distribution for old in olds),
        with_texts[0].texts if with_texts else None,
    )
    if store.is_declared():
        raise StoreError(f"{new}: is a store already. Name a new folder or prefix.")
    run_id = new_run_id()
    with ExitStack() as stack:
        locks = [stack.enter_context(run_lock(one.place, run_id)) for one in (*olds, store)]

        def check() -> None:
            for lock in locks:
                lock.check()

        if len(olds) > 1 and (double := doubled_between(opened.names)):
            raise StoreError(f"{double}. Nothing was written. A store has each id once: keep these apart.")
        store.place = store.place.fenced(check)
        left = store.table_files()  # files of an attempt that was killed, or is suspended and may wake
        files, made = [old.table_files() for old in olds], 0
        for old, found in zip(olds, files, strict=True):
            refuse_lagging_listing(old.place, found)
        before = [old.counts(found) for old, found in zip(olds, files, strict=True)]
        sources = [
            (old.place, path, found.texts_beside(path))
            for old, found in zip(olds, files, strict=True)
            for path in found.scores_paths
        ]
        shard_rows = shard_rows or _rows_of_file(files, sum(one.rows for one in before))
        for scores, texts in _shards(sources, store.schema.names, shard_rows):
            if by_score:
                scores, texts = _by_score(scores, texts, store.questions[0])
            store.write_tables(compacted_path(made), scores, texts, made_by=run_id)
            made += 1
        # An attempt that is suspended may still want to write the file after its last one.
        for number in range(made, len(left.scores) + 1 if left.scores or left.texts else 0):
            for path in _table_paths(number):
                _drop(store, path)
        counts = store.counts()
        if counts != sum(before[1:], before[0]):
            raise StoreError(f"{new}: does not hold the same rows as {opened}, and was not declared. Run again.")
        for old in olds:
            for file in old.place.files(RUNS):
                if is_run_path(file.path):  # each row names its run
                    store.place.write(file.path, read_listed(old.place, file.path))
        end_plan(store.place, files=[path for number in range(made) for path in _table_paths(number)])
        store.declare()
        check()  # else a run may have added rows to an old store meanwhile
    unfinished = {old.place.root: _unfinished_rows(old, one.rows) for old, one in zip(olds, before, strict=True)}
    return Compaction(counts.rows, len(sources), made, {root: rows for root, rows in unfinished.items() if rows > 0})


def _unfinished_rows(store: Store, rows: int) -> int:
    plan = current_plan(store.place)
    return plan.store_rows + plan.new_rows - rows if plan else 0


def _by_score(scores: pa.Table, texts: pa.Table | None, question: str) -> tuple[pa.Table, pa.Table | None]:
    """The rows with the highest score first, those without one last, and their texts in the same order."""
    scores = scores.sort_by([(question, "descending")])
    if texts is not None:
        places = pc.index_in(texts["image_id"], scores["image_id"].combine_chunks())
        texts = texts.take(pc.sort_indices(places))
    return scores, texts


def _table_paths(number: int) -> tuple[str, str]:
    return compacted_path(number), texts_path(compacted_path(number))


def _rows_of_file(files: Sequence[TableFiles], rows: int) -> int:
    """Rows with which the larger of a scores file and the texts file beside it has about `FILE_BYTES`."""
    scores = sum(file.size_bytes for found in files for file in found.scores)
    texts = sum(file.size_bytes for found in files for file in found.described)
    return max(SHARD_ROWS, FILE_BYTES * rows // max(scores, texts, 1))


def _shards(
    sources: Sequence[tuple[Place, str, str | None]], columns: list[str], shard_rows: int
) -> Iterator[tuple[pa.Table, pa.Table | None]]:
    """The rows of scores files in shards of another size, each with the texts of the same images if there are any.

    Args:
        sources: of each scores file the place, the path, and the path of the texts beside it.
        columns: of the scores.
        shard_rows: rows of each shard but the last.
    """
    scores: list[pa.Table] = []
    texts: list[pa.Table] = []
    for number, (place, path, beside) in enumerate(sources, start=1):
        scores.append(read_parquet(place, path, columns))
        if beside:
            texts.append(with_scores(read_parquet(place, beside), scores[-1]))
        while (rows := sum(table.num_rows for table in scores)) >= shard_rows or (rows and number == len(sources)):
            table = pa.concat_tables(scores)
            shard, scores = table.slice(0, shard_rows).combine_chunks(), [table.slice(shard_rows)]
            texts_of_shard = None
            if texts:
                all_texts = pa.concat_tables(texts)
                mine = pc.is_in(all_texts["image_id"], shard["image_id"].combine_chunks())
                texts_of_shard, texts = all_texts.filter(mine), [all_texts.filter(pc.invert(mine))]
            yield shard, texts_of_shard
