"""A store as one database file: DuckDB or SQLite, by the name of the file.

The tables `scores`, `texts` and `metrics` are those of the store; `artimuse_export` says where they come from.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from artimuse_actor.errors import StoreError, UsageError
from artimuse_actor.uris import user_path
from jobs.export.kind import Exported, ExportSettings, not_ours, origin
from jobs.export.rows import StoresRows, description, open_rows
from jobs.storage.user_files import write_user_file
from jobs.store.database import ROW, identifier, quoted
from jobs.store.stores import Stores
from schemas.metrics import METRICS

_DUCKDB: Final = (".duckdb", ".ddb")
_SQLITE: Final = (".sqlite", ".sqlite3", ".db")
_ORIGIN: Final = "artimuse_export"
_SQL_TYPES: Final = ((pa.types.is_integer, "INTEGER"), (pa.types.is_boolean, "INTEGER"), (pa.types.is_floating, "REAL"))


def write(stores: Stores, settings: ExportSettings) -> Exported:
    """Write the file.

    Raises:
        UsageError: its name says neither kind, or it is not on a disk.
        ExportError: there is a file that no export wrote.
    """
    out = settings.target
    suffix = os.path.splitext(out)[1].lower()
    if suffix not in (*_DUCKDB, *_SQLITE) or ("://" in out and not out.startswith("file://")):
        raise UsageError(f"--out {out}: --as sql writes a file on a disk, called .duckdb or .sqlite (or .db).")
    is_duckdb = suffix in _DUCKDB
    path = os.path.abspath(user_path(out))
    if os.path.exists(path) and not (_is_our_duckdb if is_duckdb else _is_our_sqlite)(path):
        raise not_ours(out)
    with open_rows(stores, settings.on_duplicate) as rows:
        rows.tables.add_metrics()
        with write_user_file(out) as growing:
            tables = _tables(stores, rows)
            try:
                (_write_duckdb if is_duckdb else _write_sqlite)(growing, rows, tables, origin(stores))
            except sqlite3.Error as error:
                raise StoreError(f"{out}: cannot be written: {error}.") from error
            rows.check_unchanged()
        return Exported(out, rows.count, notes=tuple(rows.notes))


def _tables(stores: Stores, rows: StoresRows) -> dict[str, tuple[pa.Schema, str]]:
    """Table → its columns, and the query of its rows, in order."""
    order = f"ORDER BY {identifier(ROW)}"
    scores = pa.schema([field for field in rows.schema if field.name in (*stores.schema.names, "store")])
    tables = {"scores": (scores, f"SELECT {_names(stores.schema, *rows.label)} FROM scores {order}")}
    if stores.text_schema.names:
        tables["texts"] = stores.text_schema, f"SELECT {_names(stores.text_schema)} FROM texts {order}"
    tables["metrics"] = METRICS, f"SELECT {_names(METRICS)} FROM metrics"
    return tables


def _names(schema: pa.Schema, *more: str) -> str:
    return ", ".join([*map(identifier, schema.names), *more])


def _write_duckdb(path: str, rows: StoresRows, tables: dict[str, tuple[pa.Schema, str]], about: dict[str, str]) -> None:
    database = rows.database
    database.run(f"ATTACH {quoted(path)} AS exported")
    for name, (schema, sql) in tables.items():
        database.run(f"CREATE TABLE exported.{name} AS {sql}")
        for field in schema:
            if described := description(field):
                database.run(f"COMMENT ON COLUMN exported.{name}.{identifier(field.name)} IS {quoted(described)}")
    values = ", ".join(f"({quoted(name)}, {quoted(value)})" for name, value in about.items())
    database.run(f"CREATE TABLE exported.{_ORIGIN} AS FROM (VALUES {values}) AS origin(name, value)")
    database.run("DETACH exported")


def _write_sqlite(path: str, rows: StoresRows, tables: dict[str, tuple[pa.Schema, str]], about: dict[str, str]) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = OFF")  # nobody knows the file before it is whole
        for name, (schema, sql) in tables.items():
            columns = [f"{identifier(field.name)} {_sql_type(field)}" for field in schema]
            key = ["PRIMARY KEY (image_id)"] if name != "metrics" else []
            database.execute(f"CREATE TABLE {name} ({', '.join([*columns, *key])})")
            marks = ", ".join("?" * len(schema))
            for batch in rows.database.batches(sql):
                database.executemany(f"INSERT INTO {name} VALUES ({marks})", _plain_rows(batch, schema))
        database.execute(f"CREATE TABLE {_ORIGIN} (name TEXT, value TEXT)")
        database.executemany(f"INSERT INTO {_ORIGIN} VALUES (?, ?)", about.items())
        database.commit()


def _plain_rows(batch: pa.RecordBatch, schema: pa.Schema) -> Iterator[tuple[Any, ...]]:
    """Rows of numbers and texts, as SQLite has them: times end with Z, lists are JSON."""
    return zip(*map(_plain_values, batch.cast(schema).columns), strict=True)


def _plain_values(column: pa.Array) -> list[Any]:
    if pa.types.is_nested(column.type):
        return [None if value is None else json.dumps(value) for value in column.to_pylist()]
    if pa.types.is_float32(column.type):
        column = column.cast(pa.string()).cast(pa.float64())  # 70.1, not 70.0999984741211
    elif pa.types.is_temporal(column.type):
        column = column.cast(pa.string())
    values: list[Any] = column.to_pylist()
    return values


def _sql_type(field: pa.Field) -> str:
    return next((name for is_such, name in _SQL_TYPES if is_such(field.type)), "TEXT")


def _is_our_duckdb(path: str) -> bool:
    with suppress(duckdb.Error), duckdb.connect(path, read_only=True) as database:
        return bool(database.sql(f"SELECT 1 FROM duckdb_tables() WHERE table_name = '{_ORIGIN}'").fetchall())
    return False


def _is_our_sqlite(path: str) -> bool:
    uri = f"{Path(path).absolute().as_uri()}?mode=ro"
    with suppress(sqlite3.Error), closing(sqlite3.connect(uri, uri=True)) as database:
        return bool(database.execute(f"SELECT 1 FROM sqlite_master WHERE name = '{_ORIGIN}'").fetchall())
    return False
