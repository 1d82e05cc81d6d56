"""Planning of a run: the manifest's rows that the store lacks, cut into shards and units."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from artimuse_actor.uris import without_secrets
from jobs.manifest.double_ids import DoubleIds
from jobs.manifest.id_index import IdIndex, hash_strings
from jobs.manifest.manifest import Manifest, without_rows
from jobs.plan.plan import SHARD_ROWS, Plan, ShardPlan, default_unit_rows, plan_identity
from jobs.plan.stored_rows import RETRY, RETRY_TEXTS, TEXTS, RetryErrors, StoredRows
from jobs.storage.parquet import parquet_bytes
from schemas.manifest import IMAGE_ROWS, TEXTS_ONLY


def make_plan(
    manifest: Manifest,
    stored: StoredRows,
    plan_id: str,
    write_rows: Callable[[int, bytes], None],
    unit_rows: int | None = None,
    shard_rows: int = SHARD_ROWS,
    *,
    texts: bool = False,
    retry: RetryErrors = RetryErrors(),
) -> Plan:
    """Read the manifest once, check it, and plan the rows that the store lacks.

    Rows whose version changed, failed rows that are retried, and rows that lack only texts are planned into shards that
    replace the files that contain them; a row without a version counts as unchanged.

    Args:
        manifest: the images to score.
        stored: the rows that the store has already.
        plan_id: id of the new plan.
        write_rows: writes a shard's index and Parquet file to where its load tasks will read it.
        unit_rows: rows of a unit; None for a number that fits the job.
        shard_rows: rows of a shard.
        texts: whether texts are generated too.
        retry: which failed rows are retried.

    Raises:
        ManifestError: there are no rows, or two rows have the same id; the message names both.
    """
    writer = _ShardWriter(write_rows, unit_rows, shard_rows, texts=texts)
    doubles = DoubleIds(manifest)
    changed: list[tuple[NDArray[np.int32], pa.Table]] = []
    manifest_rows = held_rows = new_rows = 0
    for batch in manifest.batches():
        rows = batch.rows.select(IMAGE_ROWS.names)
        ids = hash_strings(rows["image_id"])
        doubles.add(batch, ids)
        manifest_rows += rows.num_rows
        todo = rows_to_do(rows, ids, stored, retry)
        rows = rows.append_column(TEXTS_ONLY, pa.array(todo.texts_only))
        held_rows += int(((todo.places >= 0) & ~todo.changed).sum())
        new_rows += int(todo.new.sum())
        if todo.changed.any():
            files = stored.file_of_row[todo.places[todo.changed]]
            changed.append((files, rows.filter(pa.array(todo.changed))))
        writer.add(rows if todo.new.all() else rows.filter(pa.array(todo.new)))
    if not manifest_rows:
        raise without_rows(manifest)
    doubles.refuse()
    if writer.unit_rows is None:
        writer.unit_rows = default_unit_rows(new_rows + sum(len(rows) for _, rows in changed), texts=texts)
    writer.write_rest()
    writer.write_replacements(changed, stored.files)
    return Plan(
        plan_id=plan_id,
        source=without_secrets(manifest.source),
        identity=plan_identity(manifest, retry),
        manifest_rows=manifest_rows,
        held_rows=held_rows,
        new_rows=new_rows,
        store_rows=len(stored.ids),
        store_files=stored.files,
        unit_rows=writer.unit_rows,
        texts=texts,
        shards=tuple(writer.shards),
        listed=manifest.is_listed,
    )


def manifest_ids(manifest: Manifest) -> IdIndex:
    """All ids of a manifest.

    Raises:
        ManifestError: it has no rows. Pruning by a manifest that went missing would delete the whole store.
    """
    hashes = [hash_strings(batch.rows["image_id"]) for batch in manifest.batches()]
    if not sum(map(len, hashes)):
        raise without_rows(manifest)
    return IdIndex(np.concatenate(hashes))


class _ShardWriter:
    """Cuts rows into shards and writes each as a file whose row groups are its units."""

    def __init__(
        self, write_rows: Callable[[int, bytes], None], unit_rows: int | None, shard_rows: int, *, texts: bool
    ) -> None:
        self.write_rows, self.texts = write_rows, texts
        self.unit_rows, self.shard_rows = unit_rows, shard_rows
        self.shards: list[ShardPlan] = []
        self._pending: list[pa.Table] = []
        self._pending_rows = 0

    def add(self, rows: pa.Table) -> None:
        """Take new rows, and write the shards that are full."""
        if not len(rows):
            return
        self._pending.append(rows)
        self._pending_rows += len(rows)
        if self._pending_rows >= self.shard_rows:
            table = pa.concat_tables(self._pending)
            full = len(table) - len(table) % self.shard_rows
            for start in range(0, full, self.shard_rows):
                self._write(table.slice(start, self.shard_rows), None)
            self._pending, self._pending_rows = [table.slice(full)], len(table) - full

    def write_rest(self) -> None:
        """Write the new rows that are left as the last shard."""
        if self._pending_rows:
            self._write(pa.concat_tables(self._pending), None)

    def write_replacements(self, changed: Iterable[tuple[NDArray[np.int32], pa.Table]], files: tuple[str, ...]) -> None:
        """Write one shard for each scores file with older rows."""
        parts: defaultdict[int, list[pa.Table]] = defaultdict(list)
        for file_of_row, rows in changed:
            order = np.argsort(file_of_row, kind="stable")
            found, starts = np.unique(file_of_row[order], return_index=True)
            rows, ends = rows.take(pa.array(order)), [*starts[1:].tolist(), len(rows)]
            for file, start, end in zip(found.tolist(), starts.tolist(), ends, strict=True):
                parts[file].append(rows.slice(start, end - start))
        for file in sorted(parts):
            self._write(pa.concat_tables(parts.pop(file)), files[file])

    def _write(self, table: pa.Table, replaces: str | None) -> None:
        if self.unit_rows is None:  # a full shard before the manifest's end: this is a large job
            self.unit_rows = default_unit_rows(None, texts=self.texts)
        texts_only = bool(pc.all(table["texts_only"]).as_py())
        units = -(-table.num_rows // self.unit_rows)
        shard = ShardPlan(len(self.shards), table.num_rows, units, replaces, texts_only)
        table = table.unify_dictionaries().combine_chunks()
        # Ids and uris are all different: dictionaries of them would take a third of the time, and more bytes.
        data = parquet_bytes(table, self.unit_rows, dictionaries=["source_file", "source_version", "source_column"])
        self.write_rows(shard.index, data)
        self.shards.append(shard)


@dataclass(frozen=True)
class RowsToDo:
    """The rows of a batch that a plan includes.

    Attributes:
        new: (M,) bool, the id is not in the store.
        changed: (M,) bool, the id is in the store, and its row is replaced in its file.
        texts_only: (M,) bool, those of `changed` that lack only texts.
        places: (M,) int64, positions of the ids among the stored rows, or -1.
    """

    new: NDArray[np.bool_]
    changed: NDArray[np.bool_]
    texts_only: NDArray[np.bool_]
    places: NDArray[np.int64]


def rows_to_do(rows: pa.Table, ids: NDArray[np.uint64], stored: StoredRows, retry: RetryErrors) -> RowsToDo:
    """Choose the rows to do among M rows of a manifest, given the hashes of their ids, (M, 2) uint64."""
    places = stored.ids.find(ids)
    known, same = places >= 0, _same_version(rows["version"], stored, places)
    wants = stored.wants[places] if len(stored.ids) else np.zeros(len(rows), dtype=np.uint8)
    retried, texts_only = known & (wants == RETRY), same & (wants == RETRY_TEXTS)
    if retry.alone:
        return RowsToDo(np.zeros_like(known), retried | texts_only, texts_only, places)
    texts_only |= same & (wants == TEXTS)
    return RowsToDo(~known, (known & ~same) | retried | texts_only, texts_only, places)


def _same_version(versions: pa.ChunkedArray, stored: StoredRows, places: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(M,) bool: the store has the row in this version, or the manifest gives no version."""
    known: NDArray[np.bool_] = places >= 0
    if not known.any():
        return known
    equal = (hash_strings(versions) == stored.versions[np.where(known, places, 0)]).all(axis=1)
    unknown = pc.is_null(versions).to_numpy(zero_copy_only=False)
    same: NDArray[np.bool_] = known & (equal | unknown)
    return same
