"""Manifest minus store → shards → units.

A plan is written to the store before any work starts, and a restart goes on with it. Each shard of it is one Parquet
file with the rows to score, whose row groups are the units: a task reads its own row group and needs neither the
manifest nor the driver. That replaces the row ranges of the first design: a range of a user's manifest can only be
read by decoding the whole row group around it, a million rows with pyarrow's defaults, once for every unit of 200.

    _plan.json                                  written last: it makes the plan the current one
    _runs/<plan>/rows/00007.parquet             shard 7, one row group for each unit
    _runs/<plan>/staging/00007/0003.parquet     unit 3 of it, scored
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from artimuse_actor.errors import ManifestError
from artimuse_actor.uris import without_secrets
from jobs.held import RETRY, TEXTS, HeldRows, RetryErrors
from jobs.manifest.id_index import IdIndex, hash_strings
from jobs.manifest.manifest import Manifest
from jobs.storage import Place, parquet_bytes, read_parquet
from schemas.manifest import IMAGE_ROWS, TEXTS_ONLY

SHARD_ROWS: Final = 65_536
MAX_UNIT_ROWS: Final = 200  # 200 × 448 × 448 × 3 bytes stay below Ray's block size of 128 MiB
MAX_UNIT_ROWS_WITH_TEXTS: Final = 64  # 512 texts, as many as are ever generated at the same time
MIN_UNIT_ROWS: Final = 16
_UNITS_OF_A_SMALL_JOB: Final = 64

CURRENT_PLAN: Final = "_plan.json"
RUNS: Final = "_runs"


@dataclass(frozen=True)
class ShardPlan:
    """One shard: rows that are committed together.

    Attributes:
        index: its number within the plan.
        rows: how many.
        units: in how many units.
        replaces: the scores file that holds older rows of the same ids, or None if all ids are new.
        texts_only: whether it adds texts and leaves that scores file as it is.
    """

    index: int
    rows: int
    units: int
    replaces: str | None = None
    texts_only: bool = False


@dataclass(frozen=True)
class Plan:
    """All the work of one manifest against one store.

    Attributes:
        plan_id: id of the run that made it.
        source: as the user gave it, without secrets.
        identity: digest of the manifest's rows.
        manifest_rows: rows of the manifest.
        held_rows: of these, how many the store had already.
        new_rows: of these, how many ids the store did not know.
        store_rows: rows of the scores table before.
        store_files: scores files before; if others appear or vanish, the plan is void.
        unit_rows: rows of a unit.
        texts: whether it makes texts too.
        shards: the work.
    """

    plan_id: str
    source: str
    identity: str
    manifest_rows: int
    held_rows: int
    new_rows: int
    store_rows: int
    store_files: tuple[str, ...]
    unit_rows: int
    texts: bool
    shards: tuple[ShardPlan, ...]

    @property
    def folder(self) -> str:
        """Where its files lie in the store."""
        return f"{RUNS}/{self.plan_id}"

    @property
    def rows(self) -> int:
        """Rows to score."""
        return sum(shard.rows for shard in self.shards)

    def rows_path(self, shard: int) -> str:
        """The rows to score of one shard."""
        return f"{self.folder}/rows/{shard:05}.parquet"

    def staging_folder(self, shard: int) -> str:
        """Where the scored units of one shard are staged."""
        return f"{self.folder}/staging/{shard:05}"

    def staged_path(self, shard: int, unit: int) -> str:
        """Where one scored unit is staged; depends on the unit alone, so that a retry overwrites."""
        return f"{self.staging_folder(shard)}/{unit:04}.parquet"

    def attempt_path(self, shard: int, unit: int) -> str:
        """What is there from the moment a unit begins to be loaded until it is: if it is found, that did not end."""
        return f"{self.folder}/attempts/{shard:05}/{unit:04}"

    def scores_path(self, shard: ShardPlan) -> str:
        """The scores file of a shard: what commits it, unless it adds texts only."""
        return shard.replaces or f"scores/{self.plan_id}-{shard.index:05}.parquet"

    def rows_of_unit(self, shard: ShardPlan, unit: int) -> int:
        """Rows of one unit: the last one of a shard may be smaller."""
        return min(self.unit_rows, shard.rows - unit * self.unit_rows)

    def to_json(self) -> str:
        """As it stands in `_plan.json`."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """The inverse of `to_json`."""
        raw = json.loads(text)
        shards = tuple(ShardPlan(**shard) for shard in raw.pop("shards"))
        return cls(**{**raw, "store_files": tuple(raw["store_files"])}, shards=shards)


def default_unit_rows(pending_rows: int | None, *, texts: bool = False) -> int:
    """Rows of a unit: 200, but fewer for a small job, so that it keeps several actors busy and shows progress.

    Args:
        pending_rows: of the job; None if they are many.
        texts: whether texts are made, which take longer.
    """
    most = MAX_UNIT_ROWS_WITH_TEXTS if texts else MAX_UNIT_ROWS
    return most if pending_rows is None else max(MIN_UNIT_ROWS, min(most, pending_rows // _UNITS_OF_A_SMALL_JOB))


def make_plan(
    place: Place,
    manifest: Manifest,
    held: HeldRows,
    plan_id: str,
    unit_rows: int | None = None,
    shard_rows: int = SHARD_ROWS,
    *,
    texts: bool = False,
    retry: RetryErrors = RetryErrors(),
) -> Plan:
    """Read the manifest once, check it, and write a plan for the rows that the store does not hold.

    Rows whose version changed, which failed and are tried again, or which want texts only, are planned into shards that
    replace the files they stand in; a row without a version is taken as unchanged. Nothing is committed unless the
    whole manifest is in order.

    Raises:
        ManifestError: there are no rows, or an id is doubled; the message names both rows.
    """
    writer = _ShardWriter(place, f"{RUNS}/{plan_id}/rows", unit_rows, shard_rows, texts=texts)
    hashes: list[NDArray[np.uint64]] = []
    starts_of_batches: list[tuple[str, int]] = []
    changed: list[tuple[NDArray[np.int32], pa.Table]] = []
    manifest_rows = held_rows = new_rows = 0
    pending: list[pa.Table] = []
    try:
        for batch in manifest.batches():
            rows = batch.rows.select(IMAGE_ROWS.names)
            ids = hash_strings(rows["image_id"])
            if len(np.unique(ids[:, 0])) < len(ids):  # at once, not after a billion rows
                _refuse_doubles([ids], [(batch.file, batch.first_row)])
            hashes.append(ids)
            starts_of_batches.append((batch.file, batch.first_row))
            manifest_rows += rows.num_rows
            todo = rows_to_do(rows, ids, held, retry)
            rows = rows.append_column(TEXTS_ONLY, pa.array(todo.texts_only))
            held_rows += int((~todo.new & ~todo.changed).sum())
            new_rows += int(todo.new.sum())
            if todo.changed.any():
                files = held.file_of_row[todo.places[todo.changed]]
                changed.append((files, rows.filter(pa.array(todo.changed))))
            pending.append(rows if todo.new.all() else rows.filter(pa.array(todo.new)))
            if sum(map(len, pending)) >= shard_rows:
                pending = writer.write_full_shards(pending)
        if not manifest_rows:
            raise ManifestError(f"{manifest.source}: has no rows. Name a source with images.")
        _refuse_doubles(hashes, starts_of_batches)
        if writer.unit_rows is None:
            writer.unit_rows = default_unit_rows(manifest_rows - held_rows, texts=texts)
        writer.write_rest(pending)
        writer.write_replacements(changed, held.files)
    except BaseException:
        place.delete_tree(f"{RUNS}/{plan_id}")
        raise
    plan = Plan(
        plan_id=plan_id,
        source=without_secrets(manifest.source),
        identity=plan_identity(manifest, retry),
        manifest_rows=manifest_rows,
        held_rows=held_rows,
        new_rows=new_rows,
        store_rows=len(held.ids),
        store_files=held.files,
        unit_rows=writer.unit_rows,
        texts=texts,
        shards=tuple(writer.shards),
    )
    place.write(CURRENT_PLAN, plan.to_json().encode())
    return plan


def manifest_ids(manifest: Manifest) -> IdIndex:
    """All ids of a manifest.

    Raises:
        ManifestError: it has no rows; as a manifest that is missing half way would, which nobody wants to prune by.
    """
    hashes = [hash_strings(batch.rows["image_id"]) for batch in manifest.batches()]
    if not sum(map(len, hashes)):
        raise ManifestError(f"{manifest.source}: has no rows. Name a source with images.")
    return IdIndex(np.concatenate(hashes))


def plan_identity(manifest: Manifest, retry: RetryErrors) -> str:
    """What a plan is for: two of the same identity, against the same store, do the same work."""
    if not retry.alone:
        return manifest.identity()
    return f"{manifest.identity()} errors={'all' if retry.types is None else ','.join(retry.types)}"


def current_plan(place: Place) -> Plan | None:
    """The plan that the last run worked on, finished or not."""
    try:
        return Plan.from_json(place.read(CURRENT_PLAN))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        # Nothing is lost without it: what it planned and was not committed is planned anew.
        return None


def in_groups(plan: Plan, units: Iterable[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    """Units, as (shard, unit), in portions of at most so many; one that is smaller than others ends its portion.

    Ray joins small blocks of one task with those that come after them. So none may come after them.
    """
    group: list[tuple[int, int]] = []
    for shard, unit in units:
        group.append((shard, unit))
        if len(group) == size or plan.rows_of_unit(plan.shards[shard], unit) < plan.unit_rows:
            yield group
            group = []
    if group:
        yield group


def unit_rows_of(place: Place, plan: Plan, shard: int, unit: int) -> pa.Table:
    """The rows of one unit: one row group of its shard's file."""
    with place.open(plan.rows_path(shard)) as file:
        return pq.ParquetFile(file).read_row_group(unit)


def planned_ids(place: Place, plan: Plan, shard: int) -> pa.ChunkedArray:
    """The ids that a shard must hold, in order."""
    return read_parquet(place, plan.rows_path(shard), ["image_id"])["image_id"]


class _ShardWriter:
    """Cuts rows into shards and writes each as a file whose row groups are its units."""

    def __init__(self, place: Place, folder: str, unit_rows: int | None, shard_rows: int, *, texts: bool) -> None:
        self.place, self.folder, self.texts = place, folder, texts
        self.unit_rows, self.shard_rows = unit_rows, shard_rows
        self.shards: list[ShardPlan] = []

    def write_full_shards(self, tables: list[pa.Table]) -> list[pa.Table]:
        """Write all whole shards that there are rows for; returns the rest."""
        table = pa.concat_tables(tables)
        while table.num_rows >= self.shard_rows:
            self._write(table.slice(0, self.shard_rows), None)
            table = table.slice(self.shard_rows)
        return [table]

    def write_rest(self, tables: list[pa.Table]) -> None:
        for rest in self.write_full_shards(tables) if tables else []:
            if rest.num_rows:
                self._write(rest, None)

    def write_replacements(self, changed: Iterable[tuple[NDArray[np.int32], pa.Table]], files: tuple[str, ...]) -> None:
        """One shard for each scores file that holds older rows."""
        changed = list(changed)
        if not changed:
            return
        file_of_row = np.concatenate([files_of_rows for files_of_rows, _ in changed])
        table = pa.concat_tables([rows for _, rows in changed])
        for index in np.unique(file_of_row):
            self._write(table.filter(pa.array(file_of_row == index)), files[index])

    def _write(self, table: pa.Table, replaces: str | None) -> None:
        if self.unit_rows is None:  # a whole shard before the end of the manifest: no small job
            self.unit_rows = default_unit_rows(None, texts=self.texts)
        texts_only = bool(pc.all(table["texts_only"]).as_py())
        units = -(-table.num_rows // self.unit_rows)
        shard = ShardPlan(len(self.shards), table.num_rows, units, replaces, texts_only)
        table = table.unify_dictionaries().combine_chunks()
        # Ids and uris are all different: dictionaries of them take a third of the time, and bytes.
        data = parquet_bytes(table, self.unit_rows, dictionaries=["source_file"])
        self.place.write(f"{self.folder}/{shard.index:05}.parquet", data)
        self.shards.append(shard)


@dataclass(frozen=True)
class RowsToDo:
    """Which rows of a batch a plan takes up.

    Attributes:
        new: (M,) bool, the store does not know the id.
        changed: (M,) bool, the store holds the id, and the row is made anew, in the file that it stands in.
        texts_only: (M,) bool, of these, those that want nothing but texts.
        places: (M,) int64, where the ids stand among the held rows, or -1.
    """

    new: NDArray[np.bool_]
    changed: NDArray[np.bool_]
    texts_only: NDArray[np.bool_]
    places: NDArray[np.int64]


def rows_to_do(rows: pa.Table, ids: NDArray[np.uint64], held: HeldRows, retry: RetryErrors) -> RowsToDo:
    """What is to be done for rows of a manifest, given the hashes of their ids, (M, 2) uint64."""
    places = held.ids.find(ids)
    known, same = places >= 0, _same_version(rows["version"], held, places)
    wants = held.wants[places] if len(held.ids) else np.zeros(len(rows), dtype=np.uint8)
    retried, texts_only = known & (wants == RETRY), same & (wants == TEXTS)
    if retry.alone:
        return RowsToDo(np.zeros_like(known), retried, texts_only, places)
    return RowsToDo(~known, (known & ~same) | retried | texts_only, texts_only, places)


def _same_version(versions: pa.ChunkedArray, held: HeldRows, places: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the store holds a row with this version, or no version says otherwise: (M,) bool."""
    known: NDArray[np.bool_] = places >= 0
    if not known.any():
        return known
    equal = (hash_strings(versions) == held.versions[np.where(known, places, 0)]).all(axis=1)
    unknown = pc.is_null(versions).to_numpy(zero_copy_only=False)
    same: NDArray[np.bool_] = known & (equal | unknown)
    return same


def _refuse_doubles(hashes: list[NDArray[np.uint64]], batches: list[tuple[str, int]]) -> None:
    """Look for an id that stands twice, given the hashes of each batch, its file and its first row in there."""
    if not hashes:
        return
    double = IdIndex(np.concatenate(hashes)).first_double()
    if double is None:
        return
    starts = np.cumsum([0, *map(len, hashes)])
    where = []
    for position in double:
        number = int(np.searchsorted(starts, position, side="right")) - 1
        file, first_row = batches[number]
        where.append(f"{file}, row {first_row + position - int(starts[number])}")
    raise ManifestError(
        f"{where[1]}: has the same `image_id` as {where[0]}. No image was read. "
        "Drop one of them, or choose another id with --id-column."
    )
