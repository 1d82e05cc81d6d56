"""Questions to a store in SQL: one query over its tables as the views `scores`, `texts` and `metrics`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from artimuse_actor.errors import UsageError
from jobs.store.database import MAX_TIMEOUT_S, Database, open_database
from jobs.store.stores import Stores, StoresTables
from schemas.metrics import METRICS


@dataclass(frozen=True)
class QueryLimits:
    """Limits of one query.

    Attributes:
        memory_bytes: DuckDB's own; beyond it goes on in a temporary folder.
        timeout_s: seconds.
    """

    memory_bytes: int
    timeout_s: float

    def __post_init__(self) -> None:
        if self.memory_bytes < 64 * 1024 * 1024:
            raise UsageError(f"--memory takes a number of bytes from 67108864 (64 MiB), not {self.memory_bytes}.")
        if not 0 < self.timeout_s < MAX_TIMEOUT_S:
            raise UsageError(f"--timeout takes a number of seconds above 0, not {self.timeout_s:g}.")


@contextmanager
def query(stores: Stores, sql: str, limits: QueryLimits) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """The schema of a query's rows, and the rows while the block lasts; of several stores `scores` has their `store`.

    Raises:
        UsageError: it is no query, it fails, or it takes more time or memory than it may; also while rows are read.
        StoreError: a file of the store is gone or not whole.
    """
    with open_database(limits.memory_bytes) as database:
        tables = _add_tables(database, stores)
        database.lock()
        with database.limited(limits.timeout_s), _explained(sql, tables, limits):
            if not database.is_query(sql):
                raise UsageError("only one statement that reads is allowed, such as SELECT; the output's options write")
            schema, rows = database.reader(sql)
            if times := [field.name for field in schema if field.type == pa.month_day_nano_interval()]:
                raise UsageError(f"column {times[0]!r} is an INTERVAL. Write CAST(… AS VARCHAR)")
            yield schema, rows


def _add_tables(database: Database, stores: Stores) -> dict[str, list[str]]:
    """Make the views; table → columns."""
    StoresTables(stores, database, rows=False).add_metrics()
    names = {"scores": stores.schema.names, "texts": stores.text_schema.names, "metrics": METRICS.names}
    return {table: columns for table, columns in names.items() if columns}


@contextmanager
def _explained(sql: str, tables: dict[str, list[str]], limits: QueryLimits) -> Iterator[None]:
    """Complete the messages of errors with what would have been right."""
    try:
        yield
    except UsageError as error:
        message = error.message
        if "not found" in message or "does not exist" in message:
            asked = [name for name in tables if re.search(rf"\b{name}\b", sql, re.IGNORECASE)]
            has = [f"{name} has {', '.join(tables[name])}" for name in asked]
            message = f"{message.rstrip('!. ')}. " + ("; ".join(has) or f"The tables are {', '.join(tables)}")
        elif "longer than" in message:
            message += f" ({limits.timeout_s:g} s). Allow more with --timeout"
        elif "more memory" in message:
            message += f" ({limits.memory_bytes:,} bytes). Allow more with --memory"
        raise UsageError(f"query: {message.removesuffix('.')}.") from error
