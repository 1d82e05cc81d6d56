"""The scored units of a plan, each in a file of its own, from when they are scored until their shard is committed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from artimuse_actor.errors import BrokenFile, StoreError
from jobs.plan.plan import Plan
from jobs.storage.parquet import read_footer, read_parquet
from jobs.storage.place import READ_THREADS, Place
from jobs.store.layout import staged_path, staged_unit_of, staging_folder


@dataclass(frozen=True)
class Staging:
    """The staged units of a plan.

    Attributes:
        place: the place of the store.
        plan: the plan of the units.
        schema: the schema of a unit's file.
    """

    place: Place
    plan: Plan
    schema: pa.Schema

    def units(self) -> dict[int, set[int]]:
        """Shard → its staged units."""
        staged: dict[int, set[int]] = {shard.index: set() for shard in self.plan.shards}
        for file in self.place.files(staging_folder(self.plan.plan_id)):
            shard, unit = staged_unit_of(file.path)
            if shard in staged:
                staged[shard].add(unit)
        return staged

    def usable_units(self, done: Collection[int]) -> dict[int, set[int]]:
        """Shard → its staged units; none for the shards that are `done`.

        Deletes what a killed run left of these, and units that are cut short, or of another version of this program:
        they are scored again.
        """
        staged = self.units()
        for shard in done:
            if staged[shard]:
                self.delete(shard)
                staged[shard].clear()
        units = [(shard, unit) for shard, units in staged.items() for unit in units]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            for (shard, unit), is_usable in zip(units, pool.map(self._is_usable, units), strict=True):
                if not is_usable:
                    self.place.delete(staged_path(self.plan.plan_id, shard, unit))
                    staged[shard].remove(unit)
        return staged

    def rows(self, shard: int, units: Iterable[int]) -> pa.Table:
        """The rows of these units of a shard, in the order of the plan.

        Raises:
            StoreError: a unit is not whole, or gone; it is deleted.
        """
        paths = [staged_path(self.plan.plan_id, shard, unit) for unit in sorted(units)]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            tables = list(pool.map(self._read, paths))
        return pa.concat_tables(tables, promote_options="default").combine_chunks()

    def delete(self, shard: int) -> None:
        """Delete the units of a shard, which is committed."""
        self.place.delete_tree(staging_folder(self.plan.plan_id, shard))

    def _is_usable(self, unit: tuple[int, int]) -> bool:
        try:
            footer = read_footer(self.place, staged_path(self.plan.plan_id, *unit))
        except (BrokenFile, FileNotFoundError):
            return False
        return bool(footer.schema.to_arrow_schema().equals(self.schema))

    def _read(self, path: str) -> pa.Table:
        try:
            return read_parquet(self.place, path)
        except (BrokenFile, FileNotFoundError) as error:
            self.place.delete(path)
            raise StoreError(f"{self.place.uri(path)}: is not whole, or gone. Run again to score its unit.") from error
