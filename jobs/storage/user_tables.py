"""Tables of users, read in batches: Parquet, Arrow (Feather), CSV and JSON lines, the last two also gzipped, and Lance.

A batch is known by its *group* (the row group of a Parquet file, the record batch of an Arrow file, the fragment of a
Lance data set, 0 elsewhere) and the number of its first row within that.
"""

from __future__ import annotations

import codecs
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Protocol

import pyarrow as pa
from pyarrow import csv
from pyarrow import json as json_lines

from artimuse_actor.errors import ManifestError, one_line
from artimuse_actor.uris import user_path
from jobs.storage.parquet import parquet_file
from jobs.storage.s3_place import object_store_options
from jobs.storage.user_files import LIMIT_BYTES, is_remote, open_for_arrow, open_source

PARQUET: Final = (".parquet", ".parq", ".pq")
ARROW: Final = (".arrow", ".feather", ".ipc")
_TEXTS: Final = (".csv", ".tsv", ".jsonl", ".ndjson")
TEXTS: Final = (*_TEXTS, *(f"{suffix}.gz" for suffix in _TEXTS))
TABLES: Final = (*PARQUET, *ARROW, *TEXTS)
"""Suffixes of tables, in lower case."""

LANCE: Final = ".lance"
"""Suffix of the folder of a Lance data set, which is one table."""

_BLOCK_BYTES: Final = 4 << 20  # of CSV and JSON lines; a longer row is refused

Types = Mapping[str, pa.DataType]
_NO_TYPES: Final[Types] = {}
Batch = tuple[int, int, pa.Table]
"""Group, first row within the group, rows."""


class UserTable(Protocol):
    """An open table.

    Attributes:
        schema: its columns.
        num_rows: how many rows it has; None if only reading it tells.
        groups: number of its groups.
    """

    schema: pa.Schema
    num_rows: int | None
    groups: int

    def batches(self, group: int, columns: Sequence[str], rows: int, types: Types = _NO_TYPES) -> Iterator[Batch]:
        """The rows of a group, in batches of at most so many.

        Args:
            group: its number.
            columns: names; those of `image_parts` too.
            rows: of a batch.
            types: of columns whose type the first rows of a text need not show: 007 may be a name, 3 the first of 3.5.
        """

    def image_parts(self, column: str, group: int) -> list[str]:
        """The parts of a column of images to read to know which of a group's rows have bytes, and the paths of others.

        Empty if all rows have bytes, and no list needs to be counted.
        """


def is_table(path: str) -> bool:
    """Whether a file is called like a table."""
    return path.lower().endswith(TABLES)


@contextmanager
def open_table(path: str) -> Iterator[UserTable]:
    """Open a table; any error with it, also while it is read, becomes a ManifestError."""
    name = path.lower()
    opened: AbstractContextManager[UserTable]
    if name.endswith(LANCE):
        kind, opened = "a Lance data set", _open_lance(path)
    elif name.endswith(ARROW):
        kind, opened = "an Arrow file", _open_arrow(path)
    elif name.endswith(TEXTS):
        plain = name.removesuffix(".gz")
        kind = "JSON lines" if plain.endswith(("jsonl", "ndjson")) else "CSV"
        opened = _open_text(path, _JsonLines if kind == "JSON lines" else _Csv)
    else:
        kind, opened = "Parquet", _open_parquet(path)
    try:
        with opened as table:
            yield table
    except MemoryError as error:  # pa.ArrowMemoryError is one too
        raise ManifestError(
            f"{path}: reading a batch of its rows takes more than {LIMIT_BYTES:,} bytes of memory. "
            "No image was read. Write it again with smaller values and row groups."
        ) from error
    except UnicodeDecodeError as error:  # of a column's name
        raise ManifestError(f"{path}: has a header that is not UTF-8. Save it as CSV UTF-8.") from error
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        raise ManifestError(f"{path}: cannot be read as {kind}: {one_line(str(error))}.") from error


@contextmanager
def _open_parquet(path: str) -> Iterator[UserTable]:
    with open_for_arrow(path) as file, parquet_file(file, pre_buffer=True) as parquet:
        yield _Parquet(parquet)


class _Parquet:
    def __init__(self, parquet: Any) -> None:
        self._file = parquet
        self.schema = parquet.schema_arrow
        self.num_rows, self.groups = parquet.metadata.num_rows, parquet.num_row_groups

    def batches(self, group: int, columns: Sequence[str], rows: int, types: Types = _NO_TYPES) -> Iterator[Batch]:  # noqa: ARG002
        first = 0
        for batch in self._file.iter_batches(rows, row_groups=[group], columns=list(columns)):
            yield group, first, pa.table(batch)
            first += batch.num_rows

    def image_parts(self, column: str, group: int) -> list[str]:
        leaves = {
            path: number
            for number in range(len(self._file.schema.names))
            if f"{(path := self._file.schema.column(number).path)}.".startswith(f"{column}.")
        }
        is_list = pa.types.is_list(kind := self.schema.field(column).type) or pa.types.is_large_list(kind)
        path = next((leaf for leaf in leaves if leaf.endswith(".path")), None)
        data = next((leaf for leaf in leaves if leaf.endswith(".bytes")), None)
        if path is None or data is None:
            return list(leaves) if is_list else []
        about = self._file.metadata.row_group(group).column(leaves[data])
        known = about.statistics if about.is_stats_set else None
        nulls = known.null_count if known is not None and known.has_null_count else None
        if nulls == 0:
            return [path] if is_list else []
        return [path] if nulls == about.num_values else [path, data]


@contextmanager
def _open_arrow(path: str) -> Iterator[UserTable]:
    """A file or a stream of the Arrow IPC format, such as `datasets` saves; a local one is mapped into memory."""
    with open_source(path) if is_remote(path) else pa.memory_map(os.fsencode(user_path(path)), "r") as file:
        yield _Arrow(arrow_batches(file))


def arrow_batches(file: Any) -> Any:
    """The record batches of an open Arrow file: `schema`, `num_record_batches` and `get_batch`."""
    magic = bytes(file.read(6))
    file.seek(0)
    if magic == b"ARROW1":
        return pa.ipc.open_file(file)
    if magic[:4] == b"FEA1":
        raise pa.ArrowInvalid("it is of the first version of Feather; write it again with pyarrow or polars")
    if not isinstance(file, pa.NativeFile):
        raise pa.ArrowInvalid(
            "it is a stream, whose batches have no index, so it is read from a disk only; copy it there, or write it "
            "again as Parquet"
        )
    return _StreamBatches(file)


class _StreamBatches:
    """The batches of a stream that is mapped into memory, so that to go past one costs nothing."""

    def __init__(self, file: Any) -> None:
        reader = pa.ipc.open_stream(file)
        self.schema = reader.schema
        self._batches = list(reader)
        self.num_record_batches = len(self._batches)

    def get_batch(self, number: int) -> pa.RecordBatch:
        return self._batches[number]


class _Arrow:
    def __init__(self, file: Any) -> None:
        self._file = file
        self.schema = file.schema
        self.groups = file.num_record_batches
        self.num_rows: int | None = None

    def batches(self, group: int, columns: Sequence[str], rows: int, types: Types = _NO_TYPES) -> Iterator[Batch]:  # noqa: ARG002
        table = pa.table(self._file.get_batch(group)).select(list(columns))
        for first in range(0, table.num_rows, rows):
            yield group, first, table.slice(first, rows)

    def image_parts(self, column: str, group: int) -> list[str]:  # noqa: ARG002
        return [column]


def open_lance(path: str) -> Any:
    """A Lance data set in its newest version. Raises ImportError or OSError."""
    import lance

    try:
        return lance.dataset(path, storage_options=object_store_options() if is_remote(path) else None)
    except ValueError as error:  # is none
        raise OSError(str(error)) from error


@contextmanager
def _open_lance(path: str) -> Iterator[UserTable]:
    yield _Lance(path)


class _Lance:
    """The rows of each fragment that were not deleted are a group."""

    def __init__(self, path: str) -> None:
        self._path = path
        data_set = open_lance(path)
        self.schema = data_set.schema
        self._fragments = data_set.get_fragments()
        self.groups = len(self._fragments)
        self.num_rows: int | None = data_set.count_rows()

    def batches(self, group: int, columns: Sequence[str], rows: int, types: Types = _NO_TYPES) -> Iterator[Batch]:  # noqa: ARG002
        first = 0
        for batch in self._fragments[group].to_batches(columns=list(columns), batch_size=rows):
            yield group, first, pa.table(batch)
            first += batch.num_rows

    def image_parts(self, column: str, group: int) -> list[str]:  # noqa: ARG002
        raise ManifestError(
            f"{self._path}: its column {column!r} holds the images themselves, which are not read from Lance. Name a "
            "column of paths or urls with --uri-column, or write it as Parquet."
        )


@contextmanager
def _open_text(path: str, kind: Callable[[str, bool, bool], UserTable]) -> Iterator[UserTable]:
    plain = path.lower().removesuffix(".gz")
    is_gzip = plain != path.lower()
    if not is_remote(path):
        yield kind(user_path(path), is_gzip, plain.endswith(".tsv"))
        return
    # Read from a disk: a thread of pyarrow may be the last to release a Python file, see `jobs.storage.parquet`.
    with open_source(path) as source, tempfile.NamedTemporaryFile() as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
        copy.flush()
        yield kind(copy.name, is_gzip, plain.endswith(".tsv"))


def _stream(path: str, is_gzip: bool) -> Any:
    file = pa.OSFile(os.fsencode(path), "rb")
    if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise pa.ArrowInvalid("it is in UTF-16; save it as UTF-8")
    file.seek(0)
    return pa.CompressedInputStream(file, "gzip") if is_gzip else file


class _Csv:
    def __init__(self, path: str, is_gzip: bool, is_tsv: bool) -> None:
        self._path, self._is_gzip = path, is_gzip
        self._parse = csv.ParseOptions(delimiter="\t" if is_tsv else ",", newlines_in_values=True)
        with self._reader({}) as reader:
            kinds = [pa.string() if pa.types.is_binary(kind) else kind for kind in reader.schema.types]
            self.schema = pa.schema(zip(reader.schema.names, kinds, strict=True))  # what is no UTF-8 is no text
        self.num_rows: int | None = None
        self.groups = 1

    def batches(self, group: int, columns: Sequence[str], rows: int, types: Types = _NO_TYPES) -> Iterator[Batch]:  # noqa: ARG002
        first = 0
        asked = {name: types.get(name, self.schema.field(name).type) for name in columns}
        with self._reader(asked) as reader:
            for batch in reader:
                yield 0, first, pa.table(batch).select(list(columns))
                first += batch.num_rows

    def image_parts(self, column: str, group: int) -> list[str]:  # noqa: ARG002
        return []

    def _reader(self, types: dict[str, pa.DataType]) -> Any:
        # In one thread, so that an error says the row.
        return csv.open_csv(
            _stream(self._path, self._is_gzip),
            read_options=csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            parse_options=self._parse,
            convert_options=csv.ConvertOptions(
                column_types=types,
                include_columns=list(types),
                null_values=[""],  # `NA` and `null` may be names
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )


def _of_json(kind: pa.DataType) -> pa.DataType:
    """The type of what stands in JSON, where Arrow takes texts that look like times for such."""
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_of_json(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_of_json(field.type)) for field in kind])
    return kind


class _JsonLines:
    def __init__(self, path: str, is_gzip: bool, is_tsv: bool) -> None:  # noqa: ARG002
        self._path, self._is_gzip = path, is_gzip
        self.schema = pa.schema([field.with_type(_of_json(field.type)) for field in self._reader(None).schema])
        self.num_rows: int | None = None
        self.groups = 1

    def batches(self, group: int, columns: Sequence[str], rows: int, types: Types = _NO_TYPES) -> Iterator[Batch]:  # noqa: ARG002
        asked = [pa.field(name, self._type(name, types.get(name))) for name in columns]
        first = 0
        for batch in self._reader(pa.schema(asked)):
            yield 0, first, pa.table(batch).select(list(columns))
            first += batch.num_rows

    def image_parts(self, column: str, group: int) -> list[str]:  # noqa: ARG002
        return []

    def _type(self, name: str, asked: pa.DataType | None) -> pa.DataType:
        found = self.schema.field(name).type
        if pa.types.is_null(found):  # in all rows that were looked at
            return asked or pa.string()
        # A number is not read as a text here, but becomes one: 7 is not 007 in JSON.
        return asked if asked is not None and not pa.types.is_string(asked) else found

    def _reader(self, schema: pa.Schema | None) -> Any:
        return json_lines.open_json(
            _stream(self._path, self._is_gzip),
            read_options=json_lines.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            parse_options=json_lines.ParseOptions(
                explicit_schema=schema, unexpected_field_behavior="infer" if schema is None else "ignore"
            ),
        )
