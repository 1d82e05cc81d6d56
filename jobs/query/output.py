"""The rows of a query, on the screen or in a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any, Final, Literal

import pyarrow as pa
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from artimuse_actor.errors import UsageError
from jobs.curate.row_writers import json_rows, open_row_file
from jobs.storage.user_files import write_user_file
from jobs.words import one_line_name, show

SHOWN_ROWS: Final = 50
_CUT: Final = 16
_GAP: Final = 2
"""Marks of a text that is cut, and between two columns."""

Rows = Iterator[pa.RecordBatch]


def show_rows(schema: pa.Schema, rows: Rows) -> None:
    """Print the first rows as a table as wide as the terminal: texts are cut, and columns without room are named."""
    shown: list[dict[str, Any]] = []
    for batch in rows:
        columns = batch.slice(0, SHOWN_ROWS + 1 - len(shown)).columns
        exact = [column.cast(pa.string()) if pa.types.is_decimal(column.type) else column for column in columns]
        shown += json_rows(pa.table(exact, names=_numbered(schema)))
        if len(shown) > SHOWN_ROWS:
            break
    names = [one_line_name(name) for name in schema.names]
    cells = [[_cell(value) for value in row.values()] for row in shown[:SHOWN_ROWS]]
    console = Console(color_system=None, file=sys.stdout)
    widths = _widths(schema, [names, *cells], console.width)
    table = Table(box=None, header_style="", pad_edge=False)
    for field, name, width in zip(schema, names, widths, strict=False):
        justify: Literal["left", "right"] = "right" if _is_number(field) else "left"
        table.add_column(Text(name), justify=justify, no_wrap=True, overflow="ellipsis", width=width)
    for row in cells:
        table.add_row(*map(Text, row[: len(widths)]))
    with console.capture() as captured:
        console.print(table)
    show(captured.get().rstrip("\n"))
    if left_out := names[len(widths) :]:
        show(f"… and columns for which there is no room: {', '.join(left_out)}; name those you want, or use --json.")
    if len(shown) > SHOWN_ROWS:
        show(f"… and more rows than these {SHOWN_ROWS}; --json, --csv and --parquet give all.")
    elif not shown:
        show("no rows")


def _widths(schema: pa.Schema, lines: list[list[str]], room: int) -> list[int]:
    """Widths of the first columns that fit: numbers are whole, texts have at least `_CUT` marks or all of theirs."""
    wanted = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    widths: list[int] = []
    for field, width in zip(schema, wanted, strict=True):
        least = width if _is_number(field) else min(width, _CUT)
        if widths and sum(widths) + _GAP * len(widths) + least > room:
            break
        widths.append(min(least, room))
    spare = room - sum(widths) - _GAP * (len(widths) - 1)
    for number, width in enumerate(widths):
        widths[number] += (more := min(wanted[number] - width, spare))
        spare -= more
    return widths


def _is_number(field: pa.Field) -> bool:
    return any(kind(field.type) for kind in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal))


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
