"""A scored unit → a file that its shard's commit will find, and a receipt for the driver."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter

import pyarrow as pa
import pyarrow.compute as pc

from jobs.code_identity import CodeIdentity
from jobs.plan.plan import Plan
from jobs.score.meters import Meters
from jobs.storage.parquet import parquet_bytes
from jobs.storage.place import Place
from jobs.store.layout import staged_path
from schemas.text_settings import TextSettings
from schemas.units import RECEIPT


@dataclass(frozen=True)
class UnitStager:
    """Writes a scored unit to the file that its shard's commit reads.

    Attributes:
        place: the place of the store.
        plan: the plan of the units.
        schema: schema of a staged unit, see `staged_unit`.
        texts: settings of the store's texts, if it has any.
        run_id: id of this run.
        meters: counts every unit.
        code: the driver's code, which this process must run too; None to check nothing.
    """

    place: Place
    plan: Plan
    schema: pa.Schema
    texts: TextSettings | None
    run_id: str
    meters: Meters = field(default_factory=Meters)
    code: CodeIdentity | None = None

    def __call__(self, unit: pa.Table) -> pa.Table:
        """A block of schema `scored_unit` → its receipt, of schema `RECEIPT`."""
        if self.code:
            self.code.check_loading()
        shard, number = unit["shard"][0].as_py(), unit["unit"][0].as_py()
        made = {
            "run_id": pc.fill_null(unit["scored_by"], self.run_id),  # of a copied score the run that made it
            "scored_at": pa.array([datetime.now(UTC)] * len(unit), self.schema.field("scored_at").type),
        }
        columns = [made[name] if name in made else unit[name] for name in self.schema.names]
        rows = pa.table(columns, schema=self.schema)
        began = perf_counter()
        self.place.write(staged_path(self.plan.plan_id, shard, number), parquet_bytes(rows))
        spent = unit["spent"][0].as_py() | {"write_s": perf_counter() - began}
        self.meters.staged(len(unit), spent)
        errors = unit["error_type"].drop_null().to_pylist()
        tokens = (unit[f"{column}_tokens"] for column in (self.texts.columns if self.texts else ()))
        receipt = {
            "shard": shard,
            "unit": number,
            "rows": len(unit),
            "scored": len(unit) - (pc.sum(unit["texts_only"]).as_py() or 0),
            "copied": len(unit) - unit["copied_from"].null_count,
            "described": len(unit) - len(errors) if self.texts else 0,
            "text_tokens": sum(pc.sum(counts).as_py() or 0 for counts in tokens),
            "error_types": errors,
            "spent": spent,
        }
        return pa.Table.from_pylist([receipt], schema=RECEIPT)
