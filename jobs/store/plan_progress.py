"""How far a plan is carried out in its store, and how a shard gets into the tables.

A unit is staged under a name that depends on the unit alone. When the last unit of a shard is staged, its files become
one texts file and one scores file, each in one atomic write: the presence of the scores file, which is written last, is
the commit. Texts without scores were left by a run that was killed between the two, and the next run deletes them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from artimuse_actor.errors import BrokenFile, StoreError
from jobs.manifest.manifest import Manifest
from jobs.plan.plan import SHARD_ROWS, Plan, ShardPlan
from jobs.plan.planner import make_plan
from jobs.plan.stored_rows import RetryErrors
from jobs.storage.parquet import is_whole, parquet_file, read_footer, read_parquet
from jobs.storage.place import READ_THREADS, Place
from jobs.store.layout import (
    PLAN_FILE,
    rows_path,
    scores_path,
    staged_path,
    staged_unit_of,
    staging_folder,
    texts_path,
    work_folders,
)
from jobs.store.store import Store, TableFiles
from schemas.scores import OK, PLAN_KEY
from schemas.texts import texts_schema


class PlanProgress:
    """A plan in its store.

    Methods take the files of the tables as they were listed, or list them now.

    Attributes:
        store: where it is carried out.
        plan: what is to be done.
    """

    def __init__(self, store: Store, plan: Plan) -> None:
        """Nothing is read yet."""
        self.store, self.plan = store, plan
        self._place = store.place

    @classmethod
    def current(cls, store: Store) -> Self | None:
        """The plan that the last run worked on, finished or not."""
        plan = current_plan(store.place)
        return cls(store, plan) if plan else None

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
    ) -> Self:
        """Plan what the store lacks of a manifest, and make that the current plan.

        Raises:
            ManifestError: it has no rows, or an id twice; nothing of the plan stays.
        """
        files = files or store.table_files()
        try:
            plan = make_plan(
                manifest,
                store.stored_rows(files, retry),
                plan_id,
                lambda shard, rows: store.place.write(rows_path(plan_id, shard), rows),
                unit_rows,
                shard_rows,
                texts=bool(store.texts),
                retry=retry,
            )
            if plan.store_files and any(not shard.texts_only for shard in plan.shards):
                store.write_known_images(plan, files)
        except BaseException:
            _delete_work(store.place, plan_id)
            raise
        store.place.write(PLAN_FILE, plan.to_json().encode())
        return cls(store, plan)

    def can_continue(self, files: TableFiles | None = None) -> bool:
        """Whether the work can go on as it was planned.

        It must make what the store holds, texts or none. The scores files must be those it was made against, and its
        own; and of shards that are not committed, the rows must be there still: when a plan is done they are deleted,
        and a scores file may be deleted after that.
        """
        files = files or self.store.table_files()
        if self.plan.texts != bool(self.store.texts):
            return False
        own = {scores_path(self.plan, shard) for shard in self.plan.shards if not shard.replaces}
        if set(files.scores_paths) - own != set(self.plan.store_files):
            return False
        done = self.committed(files)
        rows = [rows_path(self.plan.plan_id, shard.index) for shard in self.plan.shards if shard.index not in done]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            return all(pool.map(lambda path: is_whole(self._place, path), rows))

    def committed(self, files: TableFiles | None = None) -> set[int]:
        """The shards that are committed."""
        files = files or self.store.table_files()
        present = set(files.scores_paths)

        def is_committed(shard: ShardPlan) -> bool:
            scores = scores_path(self.plan, shard)
            if scores not in present or (self.plan.texts and files.texts_beside(scores) is None):
                return False
            return not shard.replaces or self._wrote(texts_path(scores) if shard.texts_only else scores)

        return {shard.index for shard in self.plan.shards if is_committed(shard)}

    def delete_broken_staging(self) -> None:
        """Delete staged units that are cut short, so that they are scored again."""
        paths = [file.path for file in self._place.files(staging_folder(self.plan.plan_id))]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            for path, whole in zip(paths, pool.map(lambda path: is_whole(self._place, path), paths), strict=True):
                if not whole:
                    self._place.delete(path)

    def staged(self) -> dict[int, set[int]]:
        """Shard → its units that are staged."""
        staged: dict[int, set[int]] = {shard.index: set() for shard in self.plan.shards}
        for file in self._place.files(staging_folder(self.plan.plan_id)):
            shard, unit = staged_unit_of(file.path)
            if shard in staged:
                staged[shard].add(unit)
        return staged

    def commit(self, shard: ShardPlan) -> None:
        """Make a shard whose units are all staged part of the table.

        Raises:
            StoreError: the staged rows are not the planned ones.
        """
        table = self._staged_rows(shard, list(range(shard.units)))
        planned = read_parquet(self._place, rows_path(self.plan.plan_id, shard.index), ["image_id"])["image_id"]
        if not table["image_id"].equals(planned):
            raise StoreError(
                f"{self._place.uri(staging_folder(self.plan.plan_id, shard.index))}: the {table.num_rows} staged rows "
                f"are not the {len(planned)} planned ones. Delete this folder and run again; only this shard is scored "
                "again."
            )
        self._write_shard(shard, table)

    def retire(self, files: TableFiles | None = None) -> None:
        """Commit what is staged of an abandoned plan, and end it; what was not staged is planned again.

        The smaller shards go by names of their own, so that nobody takes them for the planned ones. Killed in the
        middle, this is done again with the same result: the plan is there until its staging is gone.
        """
        files = files or self.store.table_files()
        self.delete_broken_staging()
        staged, done, present = self.staged(), self.committed(files), set(files.scores_paths)
        for shard in self.plan.shards:
            units = sorted(staged[shard.index])
            if units and shard.index not in done and (not shard.replaces or shard.replaces in present):
                self._write_shard(shard, self._staged_rows(shard, units), part=True)
        self.discard_work()
        self._place.delete(PLAN_FILE)

    def discard_work(self) -> None:
        """Delete the plan's rows, staging and marks, and what it knew."""
        _delete_work(self._place, self.plan.plan_id)

    def _staged_rows(self, shard: ShardPlan, units: list[int]) -> pa.Table:
        paths = [staged_path(self.plan.plan_id, shard.index, unit) for unit in units]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            return pa.concat_tables(pool.map(self._read_staged, paths)).combine_chunks()

    def _read_staged(self, path: str) -> pa.Table:
        try:
            return read_parquet(self._place, path)
        except (BrokenFile, FileNotFoundError) as error:
            self._place.delete(path)
            raise StoreError(f"{self._place.uri(path)}: is not whole, or gone. Run again to score its unit.") from error

    def _write_shard(self, shard: ShardPlan, staged: pa.Table, *, part: bool = False) -> None:
        """Put staged rows into the tables: the texts first, then the scores, which commit them."""
        path = scores_path(self.plan, shard, part=part)
        texts_only, scores, texts = staged["texts_only"], None, None
        if self.plan.texts and self.store.texts:
            schema = texts_schema(self.store.texts)
            made = staged.filter(pc.or_(texts_only, pc.equal(staged["status"], OK)))
            made = made.append_column("described_at", made["scored_at"]).select(schema.names)
            texts = self._merged(texts_path(path), schema, made, replaced=staged["image_id"])
        if not shard.texts_only:
            made = staged.filter(pc.invert(texts_only)).select(self.store.schema.names)
            old = path if shard.replaces else None
            scores = self._merged(old, self.store.schema, made, replaced=made["image_id"])
        made_by = f"{self.plan.plan_id}-part" if part else self.plan.plan_id
        self.store.write_tables(path, scores, texts, made_by)

    def _merged(self, path: str | None, schema: pa.Schema, made: pa.Table, *, replaced: pa.ChunkedArray) -> pa.Table:
        """The rows of a file but those of these ids, if there is such a file, and then the rows that were made."""
        try:
            old = read_parquet(self._place, path) if path else schema.empty_table()
        except FileNotFoundError:
            old = schema.empty_table()
        kept = old.filter(pc.invert(pc.is_in(old["image_id"], replaced.combine_chunks())))
        return pa.concat_tables([kept.cast(schema), made.cast(schema)])

    def _wrote(self, path: str) -> bool:
        """Whether a file that was there before was written by this plan."""
        metadata = read_footer(self._place, path).metadata or {}
        return bool(metadata.get(PLAN_KEY) == self.plan.plan_id.encode())


def current_plan(place: Place) -> Plan | None:
    """The plan that the last run worked on, finished or not; None if there is none, or none that can be read.

    Nothing is lost without it: what it planned and was not committed is planned again.
    """
    try:
        return Plan.from_json(place.read(PLAN_FILE))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def unit_rows_of(place: Place, plan: Plan, shard: int, unit: int) -> pa.Table:
    """The rows of one unit: one row group of its shard's file."""
    with place.open(rows_path(plan.plan_id, shard)) as file:
        return parquet_file(file).read_row_group(unit)


def _delete_work(place: Place, plan_id: str) -> None:
    for folder in work_folders(plan_id):
        place.delete_tree(folder)
