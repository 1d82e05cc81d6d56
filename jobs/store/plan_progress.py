"""The progress of a plan in its store, and the commit of a shard to the tables.

A unit is staged under a name that depends on the unit alone. When the last unit of a shard is staged, its staged files
become one texts file and one scores file, each in one atomic write, the scores file last; that the metadata of both
name the plan is the commit. A shard that takes long, and one of an abandoned plan, is written with the units that are
staged so far, as a *part*: under the same name, but with metadata that say so, and the next write replaces it. Texts
without scores come from a run that was killed between the two; the next run deletes them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from artimuse_actor.errors import StoreError
from jobs.manifest.id_index import hash_strings
from jobs.manifest.manifest import Manifest
from jobs.plan.plan import SHARD_ROWS, Plan, ShardPlan
from jobs.plan.planner import make_plan
from jobs.plan.stored_rows import RetryErrors, StoredRows
from jobs.storage.parquet import is_whole, open_parquet, read_footer, read_parquet, with_later_columns
from jobs.storage.place import READ_THREADS, Place, StoredFile
from jobs.store.doubles import refuse_doubles
from jobs.store.layout import (
    rows_path,
    scores_path,
    staging_folder,
    texts_path,
    work_folders,
)
from jobs.store.plan_file import abandon_plan, current_plan, end_plan, make_current, plan_version
from jobs.store.staging import Staging
from jobs.store.store import Store
from jobs.store.table_files import TableFile, TableFiles
from schemas.scores import OK, PLAN_KEY
from schemas.texts import texts_schema
from schemas.units import staged_unit


class PlanProgress:
    """A plan and its progress in its store.

    Methods take an earlier listing of the tables' files (`files`), or list them now.

    Attributes:
        store: the store that the plan adds to.
        plan: the rows to score.
        staging: its scored units that are not committed yet.
    """

    def __init__(self, store: Store, plan: Plan) -> None:
        """Read nothing yet."""
        self.store, self.plan = store, plan
        self._place = store.place
        self.staging = Staging(store.place, plan, staged_unit(store.schema, store.texts if plan.texts else None))
        self._written: dict[StoredFile, bool] = {}

    @classmethod
    def current(cls, store: Store) -> Self | None:
        """The plan that the last run worked on, finished or not, if it was for scores as of this store."""
        plan = current_plan(store.place)
        return cls(store, plan) if plan and plan.fingerprint in (None, store.fingerprint.digest) else None

    @classmethod
    def begin(
        cls,
        store: Store,
        manifest: Manifest,
        plan_id: str,
        unit_rows: int | None = None,
        shard_rows: int = SHARD_ROWS,
        *,
        files: TableFiles | None = None,
        retry: RetryErrors = RetryErrors(),
        check: Callable[[Plan], None] = lambda _: None,
    ) -> Self:
        """Plan the rows of a manifest that the store lacks, and make that the current plan, unless `check` raises.

        Raises:
            ManifestError: the manifest has no rows, or an id twice; nothing of the plan is left.
            StoreError: an id is in the table twice.
        """
        files, version = files or store.table_files(), plan_version(store.place)
        stored = store.stored_rows(files, retry)
        if stored.ids.first_double():
            refuse_doubles(store, files)
        for path in stored.ahead:
            _drop_texts_without_scores(store.place, path)
        try:
            plan = make_plan(
                manifest,
                stored,
                plan_id,
                lambda shard, rows: store.place.write_private(rows_path(plan_id, shard), rows),
                unit_rows,
                shard_rows,
                texts=bool(store.texts),
                retry=retry,
            )
            store_texts = tuple(file.path for file in files.described)
            plan = replace(plan, fingerprint=store.fingerprint.digest, store_texts=store_texts)
            check(plan)
            if store.copies_scores and plan.store_files and any(not shard.texts_only for shard in plan.shards):
                store.write_known_images(plan, files)
        except BaseException:
            _delete_work(store.place, plan_id)
            raise
        make_current(store.place, plan, version)
        return cls(store, plan)

    def can_continue(self, files: TableFiles | None = None) -> bool:
        """Whether the plan can be continued.

        It must be with texts if and only if the store has texts. The scores files must be those it was made against,
        and its own, and no texts file may be gone. The rows of shards that are not committed must still be there: they
        are deleted when a plan is done, and a scores file may be deleted after that.
        """
        files, plan = files or self.store.table_files(), self.plan
        own = {scores_path(plan, shard) for shard in plan.shards if not shard.replaces}
        if plan.texts != bool(self.store.texts) or set(files.scores_paths) - own != set(plan.store_files):
            return False
        if not files.texts.keys() >= set(plan.store_texts):
            return False
        done = self.committed(files)
        rows = [rows_path(self.plan.plan_id, shard.index) for shard in self.plan.shards if shard.index not in done]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            return all(pool.map(lambda path: is_whole(self._place, path), rows))

    def committed(self, files: TableFiles | None = None) -> set[int]:
        """Indices of the shards that are committed."""
        files = files or self.store.table_files()
        present = {file.path: file for file in files.scores}

        def is_committed(shard: ShardPlan) -> bool:
            path = scores_path(self.plan, shard)
            if path not in present:
                return False
            # Both: texts that are made again, in parts, may lie beside the scores of a whole shard.
            if self.plan.texts and (files.texts_beside(path) is None or not self._wrote(texts_path(path))):
                return False
            if shard.texts_only:
                return True
            file = present[path]
            if file not in self._written:
                self._written[file] = self._wrote(path)
            return self._written[file]

        with ThreadPoolExecutor(READ_THREADS) as pool:
            done = pool.map(is_committed, self.plan.shards)
            return {shard.index for shard, is_done in zip(self.plan.shards, done, strict=True) if is_done}

    def rows_of_part(self, shard: ShardPlan, files: TableFiles) -> int:
        """Rows of a new shard that are in the tables before all of them are."""
        path = scores_path(self.plan, shard)
        is_there = not shard.replaces and path in files.scores_paths
        return int(read_footer(self._place, path).num_rows) if is_there else 0

    def commit(self, shard: ShardPlan) -> None:
        """Write a shard whose units are all staged into the tables, and delete these.

        Raises:
            StoreError: the staged rows are not the planned ones.
        """
        table = self.staging.rows(shard.index, range(shard.units))
        planned = read_parquet(self._place, rows_path(self.plan.plan_id, shard.index), ["image_id"])["image_id"]
        if not table["image_id"].equals(planned):
            raise StoreError(
                f"{self._place.uri(staging_folder(self.plan.plan_id, shard.index))}: the {table.num_rows} staged rows "
                f"are not the {len(planned)} planned ones. Delete this folder and run again; only this shard is scored "
                "again."
            )
        self._write_shard(shard, table)
        self.staging.delete(shard.index)

    def commit_part(self, shard: ShardPlan, units: Collection[int]) -> None:
        """Write the rows of these units of a shard into the tables; a later commit of the shard replaces them."""
        self._write_shard(shard, self.staging.rows(shard.index, units), part=True)

    def retire(self, files: TableFiles | None = None) -> None:
        """Commit the staged units of an abandoned plan, and end it; the other rows are planned again.

        If this is killed half way, it is done again with the same result: the plan ends after the last part, and is not
        continued once this has begun, since what spoke against that may not be seen any more.
        """
        files = files or self.store.table_files()
        staged, present = self.staging.usable_units(self.committed(files)), set(files.scores_paths)
        left = [shard for shard in self.plan.shards if staged[shard.index]]
        stored = self.store.stored_rows(files) if left else None
        if left:
            abandon_plan(self._place)
        for shard in left:
            if stored and (not shard.replaces or shard.replaces in present):
                rows = self.staging.rows(shard.index, staged[shard.index])
                rows = rows.filter(_fits(rows, scores_path(self.plan, shard), stored))
                if len(rows):
                    self._write_shard(shard, rows, part=True)
        end_plan(self._place)
        self.discard_work()

    def discard_work(self) -> None:
        """Delete the plan's rows, staged units, marks and digests of known images."""
        _delete_work(self._place, self.plan.plan_id)

    def _write_shard(self, shard: ShardPlan, staged: pa.Table, *, part: bool = False) -> None:
        """Write staged rows into the tables: first the texts, then the scores, which commit them; see `committed`."""
        path = scores_path(self.plan, shard)
        texts_only, scores, texts = staged["texts_only"], None, None
        if self.plan.texts and self.store.texts:
            schema = texts_schema(self.store.texts)
            made = staged.filter(pc.or_(texts_only, pc.equal(staged["status"], OK)))
            made = made.append_column("described_at", made["scored_at"])
            runs = pc.coalesce(made["described_by"], made["run_id"])
            made = made.set_column(made.schema.get_field_index("run_id"), "run_id", runs).select(schema.names)
            texts = self._merged(texts_path(path), schema, made, replaced=staged["image_id"])
        if not shard.texts_only or not pc.all(texts_only).as_py():  # a picture may have changed since it was scored
            made = staged.filter(pc.invert(texts_only)).select(self.store.schema.names)
            scores = self._merged(path, self.store.schema, made, replaced=made["image_id"])
        made_by = f"{self.plan.plan_id}-part" if part else self.plan.plan_id
        self.store.replace_tables(scores, texts, made_by, texts_last=shard.texts_only)

    def _merged(
        self, path: str, schema: pa.Schema, made: pa.Table, *, replaced: pa.ChunkedArray
    ) -> tuple[TableFile, pa.Table]:
        """A file as it is, and its rows, if there is one, without the ids `replaced`, then the rows `made`."""
        file = TableFile.read(self._place, path)
        old = schema.empty_table() if file.rows is None else with_later_columns(file.rows, schema.names)
        kept = old.filter(pc.invert(pc.is_in(old["image_id"], replaced.combine_chunks())))
        return file, pa.concat_tables([kept.cast(schema), made.cast(schema)])

    def _wrote(self, path: str) -> bool:
        """Whether this plan wrote a file that existed before it."""
        metadata = read_footer(self._place, path).metadata or {}
        return bool(metadata.get(PLAN_KEY) == self.plan.plan_id.encode())


def unit_rows_of(place: Place, plan: Plan, shard: int, unit: int) -> pa.Table:
    """The rows of one unit: one row group of its shard's file."""
    with open_parquet(place, rows_path(plan.plan_id, shard)) as parquet:
        rows: pa.Table = parquet.read_row_group(unit)
        return rows


def _delete_work(place: Place, plan_id: str) -> None:
    for folder in work_folders(plan_id):
        place.delete_tree(folder)


def _drop_texts_without_scores(place: Place, path: str) -> None:
    """Drop the texts of images that a scores file has not, since they may be planned into another one."""
    texts, scores = TableFile.read(place, texts_path(path)), read_parquet(place, path, ["image_id"])
    if texts.rows is not None:
        mine = pc.is_in(texts.rows["image_id"], scores["image_id"].combine_chunks())
        texts.replace(texts.rows.filter(mine), texts.rows.schema.metadata)


def _fits(rows: pa.Table, path: str, stored: StoredRows) -> pa.BooleanArray:
    """Whether staged rows can be written to a scores file: they are in no other one, and texts have a score in it."""
    here = stored.files.index(path) if path in stored.files else -1
    places = stored.ids.find(hash_strings(rows["image_id"]))
    is_stored = places >= 0
    in_file = np.full(len(rows), -1)
    in_file[is_stored] = stored.file_of_row[places[is_stored]]
    texts_only = rows["texts_only"].to_numpy()
    return pa.array((is_stored & (in_file == here)) | (~is_stored & ~texts_only))
