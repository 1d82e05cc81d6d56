"""Tables, a part at a time, into one Parquet, JSON lines or CSV file; the same rows always give the same bytes."""

from __future__ import annotations

import json
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from artimuse_actor.errors import UsageError
from jobs.words import json_value

SUFFIXES: Final = {"parquet": ".parquet", "jsonl": ".jsonl", "csv": ".csv"}
_GROUP_ROWS: Final = 65_536
_FORMULA: Final = "^([=+\\-@\t\r\n＝＋－＠])"
_GROUP_BYTES: Final = 64 * 1024 * 1024  # of embedded images, a row group would be gigabytes


class RowFile(Protocol):
    """A file that rows are written to."""

    def write(self, table: pa.Table) -> None:
        """Add rows."""

    def close(self, metadata: dict[bytes, bytes]) -> None:
        """Finish the file; `metadata` is what a Parquet file says of itself."""


def open_row_file(kind: str, path: Any, schema: pa.Schema) -> RowFile:
    """Begin a file at a path, or in an open one if its kind is csv.

    Raises:
        UsageError: a column of the schema cannot be written like this.
    """
    if kind == "parquet":
        return _ParquetRows(path, schema)
    for field in schema:
        _refuse_column(field, kind)
    return _JsonRows(path) if kind == "jsonl" else _CsvRows(path, schema)


def is_json(field: pa.Field) -> bool:
    """Whether JSON can hold the values of a column."""
    inside = (field.type.field(place) for place in range(field.type.num_fields))
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return not any(is_such(field.type) for is_such in binary) and all(map(is_json, inside))


def json_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows for JSON: the shortest exact form of each number, the rest as `json_value` has it."""
    for place, field in enumerate(table.schema):
        column = table.column(place)
        if pa.types.is_float32(field.type):
            column = column.cast(pa.string()).cast(pa.float64())  # 70.1, not 70.0999984741211
        elif pa.types.is_dictionary(field.type):
            column = column.cast(field.type.value_type)
        elif pa.types.is_temporal(field.type):
            column = column.cast(pa.string())
        table = table.set_column(place, field.name, column)
    rows: list[dict[str, Any]] = json_value(table.to_pylist())
    return rows


class _ParquetRows:
    def __init__(self, path: str, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", write_page_index=True)
        self._waiting: list[pa.Table] = []

    def write(self, table: pa.Table) -> None:
        self._waiting.append(table)
        rows = sum(len(part) for part in self._waiting)
        if rows >= _GROUP_ROWS or sum(part.nbytes for part in self._waiting) >= _GROUP_BYTES:
            self._flush()

    def close(self, metadata: dict[bytes, bytes]) -> None:
        self._flush()
        self._writer.add_key_value_metadata(metadata)
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).cast(self._schema), row_group_size=_GROUP_ROWS)
        self._waiting = []


class _JsonRows:
    def __init__(self, path: str) -> None:
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115 - closed by `close`

    def write(self, table: pa.Table) -> None:
        for row in json_rows(table):
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self, metadata: dict[bytes, bytes]) -> None:  # noqa: ARG002 - a file of rows has nowhere for it
        self._file.close()


class _CsvRows:
    """CSV in which no cell is a formula to a spreadsheet: a text that begins like one gets an apostrophe before it."""

    def __init__(self, path: Any, schema: pa.Schema) -> None:
        self._types = [_plain(field.type) for field in schema]
        names = pc.replace_substring_regex(pa.array(schema.names), _FORMULA, r"'\1").to_pylist()
        self._schema = pa.schema(zip(names, self._types, strict=True))
        self._writer = pa.csv.CSVWriter(path, self._schema)

    def write(self, table: pa.Table) -> None:
        columns = [column.cast(kind) for column, kind in zip(table.columns, self._types, strict=True)]
        shown = [pc.replace_substring_regex(one, _FORMULA, r"'\1") if _is_text(one.type) else one for one in columns]
        self._writer.write_table(pa.table(shown, schema=self._schema))

    def close(self, metadata: dict[bytes, bytes]) -> None:  # noqa: ARG002 - likewise
        self._writer.close()


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type that Arrow writes as CSV: values instead of dictionaries, and strings of the usual layout."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.string() if pa.types.is_string_view(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _refuse_column(field: pa.Field, kind: str) -> None:
    if not is_json(field) or (pa.types.is_nested(field.type) and kind == "csv"):
        raise UsageError(
            f"A {kind} file cannot hold the column {field.name!r} ({field.type}). Nothing was written. Write Parquet, "
            "or leave the column out."
        )
