"""Plans: manifest minus store, cut into shards, and the shards into units.

A plan is written to the store before any work starts, and a restart continues it. Each of its shards is one Parquet
file with the rows to score, whose row groups are the units: a task reads its own row group and needs neither the
manifest nor the driver. Row ranges of the user's manifest, as in the first design, are slow: a range can only be read
by decoding the whole row group around it, a million rows with pyarrow's defaults, once for every unit of 200.
The paths of a plan's files are in `jobs.store.layout`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Final

from jobs.manifest.manifest import Manifest
from jobs.plan.stored_rows import RetryErrors

SHARD_ROWS: Final = 65_536
MAX_UNIT_ROWS: Final = 200  # 200 × 448 × 448 × 3 bytes stay below Ray's block size of 128 MiB
MAX_UNIT_ROWS_WITH_TEXTS: Final = 64  # 64 × 8 = 512 texts, the most that are generated at the same time
MIN_UNIT_ROWS: Final = 16
_UNITS_OF_A_SMALL_JOB: Final = 64


@dataclass(frozen=True)
class ShardPlan:
    """One shard: rows that are committed together.

    Attributes:
        index: its number within the plan.
        rows: number of rows.
        units: number of units.
        replaces: the scores file with older rows of the same ids, or None if all ids are new.
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
        plan_id: id of the run that made the plan.
        source: the source as the user gave it, without secrets.
        identity: digest of the manifest's rows.
        manifest_rows: rows of the manifest.
        held_rows: rows of the manifest that the store had already.
        new_rows: rows of the manifest whose ids were not in the store.
        store_rows: rows of the scores table before the plan.
        store_files: scores files before the plan; if others appear or vanish, the plan is void.
        unit_rows: rows of a unit.
        texts: whether texts are generated too.
        shards: the rows to score, shard by shard.
        store_texts: texts files before the plan; if one vanishes, the plan is void.
        fingerprint: digest of the fingerprint of its scores; None in plans of older versions.
        listed: whether the source was listed: an image with a version was there when the plan was made.
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
    store_texts: tuple[str, ...] = ()
    fingerprint: str | None = None
    listed: bool = False

    @property
    def rows(self) -> int:
        """Rows to score."""
        return sum(shard.rows for shard in self.shards)

    def rows_of_unit(self, shard: ShardPlan, unit: int) -> int:
        """Number of rows of one unit: the last unit of a shard may be smaller."""
        return min(self.unit_rows, shard.rows - unit * self.unit_rows)

    def to_json(self) -> str:
        """The content of `_plan.json`."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """The inverse of `to_json`."""
        raw = json.loads(text)
        raw["shards"] = tuple(ShardPlan(**shard) for shard in raw["shards"])
        raw["store_files"], raw["store_texts"] = tuple(raw["store_files"]), tuple(raw.get("store_texts", ()))
        return cls(**raw)


def default_unit_rows(pending_rows: int | None, *, texts: bool = False) -> int:
    """Rows of a unit: 200, but fewer for a small job, so that it keeps several actors busy and shows progress.

    Args:
        pending_rows: rows of the job; None for a large job.
        texts: whether texts are generated, which takes longer.
    """
    most = MAX_UNIT_ROWS_WITH_TEXTS if texts else MAX_UNIT_ROWS
    return most if pending_rows is None else max(MIN_UNIT_ROWS, min(most, pending_rows // _UNITS_OF_A_SMALL_JOB))


def plan_identity(manifest: Manifest, retry: RetryErrors) -> str:
    """Identity of the work: two plans with the same identity, against the same store, do the same."""
    if not retry.alone:
        return manifest.identity()
    return f"{manifest.identity()} errors={'all' if retry.types is None else ','.join(retry.types)}"


def in_groups(plan: Plan, units: Iterable[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    """Units, as (shard, unit), in groups of at most `size`; a unit that is smaller than the others ends its group.

    Ray joins a small block with the next blocks of the same task, so no block may follow a small one.
    """
    group: list[tuple[int, int]] = []
    for shard, unit in units:
        group.append((shard, unit))
        if len(group) == size or plan.rows_of_unit(plan.shards[shard], unit) < plan.unit_rows:
            yield group
            group = []
    if group:
        yield group
