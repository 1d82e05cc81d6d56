"""The progress of a plan in its store, and the commit of a shard to the tables.

A unit is staged under a name that depends on the unit alone. When the last unit of a shard is staged, its staged files
become one texts file and one scores file, each in one atomic write. The scores file is written last, and its presence
is the commit. Texts without scores come from a run that was killed between the two; the next run deletes them.
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
    """A plan and its progress in its store.

    Methods take an earlier listing of the tables' files (`files`), or list them now.

    Attributes:
        store: the store that the plan adds to.
        plan: the rows to score.
    """

    def __init__(self, store: Store, plan: Plan) -> None:
        """Read nothing yet."""
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
        """Plan the rows of a manifest that the store lacks, and make that the current plan.

        Raises:
            ManifestError: the manifest has no rows, or an id twice; nothing of the plan is left.
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
        """Whether the plan can be continued.

        It must be with texts if and only if the store has texts. The scores files must be those it was made against,
        and its own. The rows of shards that are not committed must still be there: they are deleted when a plan is
        done, and a scores file may be deleted after that.
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
        """Indices of the shards that are committed."""
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
        """Shard → its staged units."""
        staged: dict[int, set[int]] = {shard.index: set() for shard in self.plan.shards}
        for file in self._place.files(staging_folder(self.plan.plan_id)):
            shard, unit = staged_unit_of(file.path)
            if shard in staged:
                staged[shard].add(unit)
        return staged

    def commit(self, shard: ShardPlan) -> None:
        """Write a shard whose units are all staged into the tables.

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
        """Commit the staged units of an abandoned plan, and end it; the other rows are planned again.

        Incomplete shards get names of their own, so that they do not count as the planned ones. If this is killed
        half way, it is done again with the same result: the plan is deleted after its staging.
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
        """Delete the plan's rows, staged units, marks and digests of known images."""
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
        """Write staged rows into the tables: first the texts, then the scores, which commit them."""
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
        """The rows of a file, if there is one, without the ids `replaced`; then the rows `made`."""
        try:
            old = read_parquet(self._place, path) if path else schema.empty_table()
        except FileNotFoundError:
            old = schema.empty_table()
        kept = old.filter(pc.invert(pc.is_in(old["image_id"], replaced.combine_chunks())))
        return pa.concat_tables([kept.cast(schema), made.cast(schema)])

    def _wrote(self, path: str) -> bool:
        """Whether this plan wrote a file that existed before it."""
        metadata = read_footer(self._place, path).metadata or {}
        return bool(metadata.get(PLAN_KEY) == self.plan.plan_id.encode())


def current_plan(place: Place) -> Plan | None:
    """The plan that the last run worked on, finished or not; None if there is none, or it cannot be read.

    Nothing is lost without it: its rows that were not committed are planned again.
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
