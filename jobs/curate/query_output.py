"""The rows of a query, on the screen or in a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from artimuse_actor.errors import UsageError
from jobs.curate.row_writers import json_rows, open_row_file
from jobs.storage.user_files import write_user_file
from jobs.words import one_line_name, show

SHOWN_ROWS: Final = 50

Rows = Iterator[pa.RecordBatch]


def show_rows(schema: pa.Schema, rows: Rows) -> None:
    """Print the first rows as a table that is cut to the width of the terminal."""
    table = Table(box=None, header_style="", pad_edge=False)
    for field in schema:
        is_number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        table.add_column(
            Text(one_line_name(field.name)), justify="right" if is_number else "left", no_wrap=True, overflow="ellipsis"
        )
    shown: list[dict[str, Any]] = []
    for batch in rows:
        shown += json_rows(pa.table(batch.slice(0, SHOWN_ROWS + 1 - len(shown)).columns, _numbered(schema)))
        if len(shown) > SHOWN_ROWS:
            break
    for row in shown[:SHOWN_ROWS]:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    console = Console(color_system=None, file=sys.stdout)
    with console.capture() as captured:
        console.print(table)
    show(captured.get().rstrip("\n"))
    if len(shown) > SHOWN_ROWS:
        show(f"… and more rows than these {SHOWN_ROWS}; --json, --csv and --parquet give all.")
    elif not shown:
        show("no rows")


def print_json(schema: pa.Schema, rows: Rows) -> None:
    """Print all rows as one array of objects, a row on a line."""
    _refuse_equal_names(schema)
    before = "["
    for batch in rows:
        for row in json_rows(pa.table(batch)):
            print(before + json.dumps(row, default=str, ensure_ascii=False))
            before = ","
    print("]" if before == "," else "[]")


def write_rows(kind: str, schema: pa.Schema, rows: Rows, out: str) -> int:
    """Write all rows to a CSV or Parquet file, whole or not at all, or CSV to the standard output (`-`).

    Returns:
        The number of rows.
    """
    _refuse_equal_names(schema)
    if kind == "csv" and (nested := [field.name for field in schema if pa.types.is_nested(field.type)]):
        raise UsageError(f"--csv: cannot hold the column {nested[0]!r}. Cast it to VARCHAR, or use --parquet.")
    if out == "-":
        sys.stdout.flush()
        return _write(kind, schema, rows, sys.stdout.buffer)
    with write_user_file(out) as path:
        return _write(kind, schema, rows, path)


def _write(kind: str, schema: pa.Schema, rows: Rows, target: Any) -> int:
    file, count = open_row_file(kind, target, schema), 0
    for batch in rows:
        file.write(pa.table(batch))
        count += len(batch)
    file.close({})
    return count


def _refuse_equal_names(schema: pa.Schema) -> None:
    if doubled := [name for name in schema.names if schema.names.count(name) > 1]:
        raise UsageError(f"Two columns are called {doubled[0]!r}. Name one of them otherwise, with AS.")


def _numbered(schema: pa.Schema) -> list[str]:
    """Names that are all different, as the keys of rows."""
    return [str(number) for number in range(len(schema))]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return one_line_name(f"{value:.6g}" if isinstance(value, float) else str(value))
