"""Stores filled as the pipeline fills them, without Ray and without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from artimuse_actor.protocol.protocols import ARTIMUSE
from jobs.manifest.source import open_manifest
from jobs.plan.plan import Plan, ShardPlan
from jobs.plan.stored_rows import RetryErrors
from jobs.storage.parquet import parquet_bytes, read_parquet
from jobs.store.layout import staged_path
from jobs.store.plan_progress import PlanProgress, unit_rows_of
from jobs.store.store import Store
from jobs.store.text_request import WantedTexts
from schemas.fingerprint import Fingerprint
from schemas.units import staged_unit

FINGERPRINT = Fingerprint("ArtiMuse", "c" * 64, "artimuse", "p" * 64, "rgb-bicubic-448/1")


def write_manifest(path: Path, ids: list[str], versions: list[str | None] | None = None) -> str:
    """A manifest of these ids, all of version 1 if no other is given."""
    pq.write_table(pa.table({"image_id": ids, "uri": ids, "version": versions or ["1"] * len(ids)}), path)
    return str(path)


def open_store(folder: Path, texts: WantedTexts | None = None, fingerprint: Fingerprint = FINGERPRINT) -> Store:
    """The store that a run would write to, declared."""
    store = Store.for_run(str(folder), fingerprint, ARTIMUSE, keep_distribution=False, wanted_texts=texts)
    store.declare()
    return store


def plan_for(store: Store, source: str, plan_id: str, retry: RetryErrors | None = None, **sizes: Any) -> Plan:
    """The plan of the next run."""
    return PlanProgress.begin(store, open_manifest(source), plan_id, retry=retry or RetryErrors(), **sizes).plan


def stage(store: Store, plan: Plan, shard: ShardPlan, units: list[int], score: float = 50.0) -> None:
    """Put a scored unit where the pipeline puts it."""
    schema = staged_unit(store.schema, store.texts)
    for unit in units:
        rows = unit_rows_of(store.place, plan, shard.index, unit)
        made = {"status": "ok", "run_id": plan.plan_id, "scored_at": 0, "score": score}
        made |= {column: f"{column} by {plan.plan_id}" for column in (store.texts.columns if store.texts else ())}
        columns = [
            rows[field.name]
            if field.name in rows.column_names
            else pa.array([made.get(field.name)] * len(rows), field.type)
            for field in schema
        ]
        table = pa.table(columns, schema=schema)
        store.place.write(staged_path(plan.plan_id, shard.index, unit), parquet_bytes(table))


def complete(store: Store, plan: Plan, score: float = 50.0) -> None:
    """Stage and commit all of a plan."""
    for shard in plan.shards:
        stage(store, plan, shard, list(range(shard.units)), score)
        PlanProgress(store, plan).commit(shard)


def stage_with(store: Store, plan: Plan, **columns: Any) -> None:
    """Stage the one unit of a plan, some columns with other values: one for all rows, or a list."""
    stage(store, plan, plan.shards[0], [0])
    path = staged_path(plan.plan_id, 0, 0)
    table = read_parquet(store.place, path)
    for name, value in columns.items():
        values = value if isinstance(value, list) else [value] * len(table)
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    store.place.write(path, parquet_bytes(table))
