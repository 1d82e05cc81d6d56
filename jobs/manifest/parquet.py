"""A manifest in Parquet files, with uris or with embedded images, streamed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from artimuse_actor.errors import ManifestError, one_line
from artimuse_actor.uris import uri_as_id
from jobs.manifest.listing import ListedFile
from jobs.manifest.manifest import ROWS, Coverage, ManifestBatch, ManifestOptions, absolute
from jobs.storage.user_files import BATCH_ROWS, limited, open_parquet

MAX_TEXT_BYTES: Final = 32 * 1024  # of an id, uri or version: ten times the longest signed urls
IMAGE_BATCH_ROWS: Final = 128  # with embedded images, since these may be read too, megabytes each
_MAY_HAVE_SECRETS: Final = "(?s)://(.*[@?#;=]|[^/]*:)"
_BYTES_A_ROW: Final = 64  # two hashes, stored twice and sorted


@dataclass
class ParquetManifest:
    """A manifest in Parquet files, read batch by batch on demand."""

    source: str
    files: list[ListedFile]
    options: ManifestOptions
    notes: list[str] = field(default_factory=list)
    coverage: Coverage | None = None
    is_listed = False
    id_prefix = ""

    def identity(self) -> str:
        """See `Manifest`: a digest of the files' names, sizes and times, and of the options; reads no row."""
        # The current folder is part of it, since relative uris start from there.
        listing = [[file.path, file.size_bytes, file.version] for file in self.files]
        return hashlib.sha256(json.dumps([listing, os.getcwd(), asdict(self.options)]).encode()).hexdigest()

    def columns(self) -> pa.Schema:
        """See `Manifest`: the columns of the first file; where another file lacks one, its rows get nulls."""
        with open_parquet(self.files[0].path) as parquet:
            return parquet.schema_arrow

    def batches(self, own: Sequence[str] = (), *, keys: bool = True) -> Iterator[ManifestBatch]:
        """See `Manifest`."""
        schema = pa.schema([self.columns().field(name) for name in own]) if own else None
        rows = 0
        for file in self.files:
            with open_parquet(file.path) as parquet:
                rows += parquet.metadata.num_rows
                _refuse_too_many(file.path, rows)
                yield from limited(self._file_batches(file, parquet, schema, keys))

    def _file_batches(
        self, file: ListedFile, parquet: Any, own: pa.Schema | None, keys: bool
    ) -> Iterator[ManifestBatch]:
        reader = _ColumnReader(file, parquet.schema_arrow, self.options)
        mine = [name for name in own.names if name in parquet.schema_arrow.names] if own is not None else []
        columns = list(dict.fromkeys([*(reader.columns if keys or not mine else ()), *mine]))
        first_row = 0
        for group in range(parquet.num_row_groups):
            row_in_group = 0
            for batch in parquet.iter_batches(reader.batch_rows, row_groups=[group], columns=columns):
                table = pa.table(batch)
                rows = reader.rows(table, first_row, group, row_in_group) if keys else ROWS.empty_table()
                carried = reader.own(table, own) if own is not None else None
                yield ManifestBatch(rows, file.path, first_row, carried)
                first_row += batch.num_rows
                row_in_group += batch.num_rows


def _refuse_too_many(path: str, rows: int) -> None:
    """Refuse more rows than memory can plan: a few bytes of a compressed file can expand to billions of rows."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if rows * _BYTES_A_ROW > memory_bytes:
        raise ManifestError(
            f"{path}: makes {rows:,} rows; to plan them takes {_BYTES_A_ROW} bytes of memory each, and this machine "
            f"has {memory_bytes:,}. No image was read. Score the files of this manifest one after the other."
        )


class _ColumnReader:
    """Finds the columns of one Parquet file that are the id, the uri and so on, checks them and renames them."""

    def __init__(self, file: ListedFile, schema: pa.Schema, options: ManifestOptions) -> None:
        self.path = path = file.path
        self.file = file
        if doubled := [name for name in set(schema.names) if schema.names.count(name) > 1]:
            raise ManifestError(f"{path}: has two columns of the name {doubled[0]!r}. Rename one of them.")
        self.options = options
        self.uri = self._pick(schema, options.uri_column, "uri")
        image = schema.field("image") if "image" in schema.names else None
        if self.uri is None and image is not None and _is_string(image.type):
            self.uri = "image"
        self.embedded = image is not None and is_image_type(image.type)
        self.batch_rows = IMAGE_BATCH_ROWS if self.embedded else BATCH_ROWS
        if self.uri is None and not self.embedded:
            raise ManifestError(
                f"{path}: has neither a column `uri` nor an `image` of bytes (it has {', '.join(schema.names[:20])}). "
                "Name the column of paths with --uri-column."
            )
        self.id = self._pick(schema, options.id_column, "image_id")
        self.version = self._pick(schema, None, "version")
        self.gt_score = "gt_score" if "gt_score" in schema.names else None
        if self.gt_score and not _is_number(schema.field("gt_score").type):
            raise ManifestError(f"{path}: `gt_score` is of type {schema.field('gt_score').type}; it must be a number.")
        # Without any of them, the smallest leaf column is read, only to count the rows.
        named = [name for name in (self.id, self.uri, self.version, self.gt_score) if name]
        self.columns = list(dict.fromkeys(named)) or [_smallest_leaf(schema)]

    def rows(self, table: pa.Table, first_row: int, group: int, row_in_group: int) -> pa.Table:
        count = table.num_rows
        uri = self._strings(table, self.uri, first_row) if self.uri else pa.nulls(count, pa.string())
        if not self.embedded and self.uri:
            self._no_null(uri, self.uri, first_row)
        if self.id:
            image_id = self._strings(table, self.id, first_row)
            self._no_null(image_id, self.id, first_row)
        elif uri.null_count:
            rows = [f"{self.file.image_id}#{row}" for row in range(first_row, first_row + count)]
            image_id = pc.coalesce(as_ids(uri), pa.array(rows, pa.string()))
        else:
            image_id = as_ids(uri)
        here = pc.is_null(uri)
        version = self._strings(table, self.version, first_row) if self.version else pa.nulls(count, pa.string())
        if not self.version:
            # An embedded image may have changed whenever its file changed.
            version = pc.if_else(here, pa.scalar(self.file.version, pa.string()), version)
        none = pa.nulls(count, pa.int32())
        numbers = pa.array(range(row_in_group, row_in_group + count), pa.int32())
        return pa.table(
            [
                image_id,
                absolute(uri, self.options.images),
                version,
                pc.if_else(here, self.path, pa.nulls(count, pa.string())).dictionary_encode(),
                pc.if_else(here, pa.scalar(self.file.version, pa.string()), None).dictionary_encode(),
                pc.if_else(here, pa.scalar(group, pa.int32()), none),
                pc.if_else(here, numbers, none),
                table[self.gt_score].cast(pa.float64()) if self.gt_score else pa.nulls(count, pa.float64()),
            ],
            schema=ROWS,
        )

    def own(self, table: pa.Table, schema: pa.Schema) -> pa.Table:
        """The user's own columns; null where this file lacks one."""
        try:
            columns = [
                table[field.name].cast(field.type)
                if field.name in table.column_names
                else pa.nulls(table.num_rows, field.type)
                for field in schema
            ]
        except pa.ArrowException as error:
            raise ManifestError(
                f"{self.path}: its columns are of other types than in the first file: {error}."
            ) from error
        return pa.table(columns, schema=pa.schema([field.with_nullable(True) for field in schema]))

    def _pick(self, schema: pa.Schema, asked: str | None, default: str) -> str | None:
        name = asked or default
        if name not in schema.names:
            if asked:
                raise ManifestError(f"{self.path}: has no column {asked!r} (it has {', '.join(schema.names[:20])}).")
            return None
        kind = schema.field(name).type
        if not _is_string(kind):
            raise ManifestError(
                f"{self.path}: `{name}` is of type {kind}; it must be a string. No image was read. "
                "Cast it, then run again."
            )
        return name

    def _strings(self, table: pa.Table, name: str, first_row: int) -> pa.Array:
        try:
            strings = table[name].cast(pa.string()).combine_chunks()
            strings.validate(full=True)  # that it is UTF-8: the next check would be when a table is written, too late
        except pa.ArrowInvalid as error:
            row = first_row + next((index for index, raw in enumerate(_raw(table[name])) if not _is_utf8(raw)), 0)
            raise ManifestError(
                f"{self.path}, row {row}: `{name}` cannot be read as text: {one_line(str(error))}. No image was read. "
                "Write it again as UTF-8, then run again."
            ) from error
        lengths = pc.binary_length(strings)
        if (pc.max(lengths).as_py() or 0) > MAX_TEXT_BYTES:
            row = first_row + pc.index(pc.greater(lengths, MAX_TEXT_BYTES), True).as_py()
            raise ManifestError(
                f"{self.path}, row {row}: `{name}` is longer than {MAX_TEXT_BYTES:,} bytes. No image was read. "
                "Fix or drop the row, then run again."
            )
        return strings

    def _no_null(self, values: pa.Array, name: str, first_row: int) -> None:
        if values.null_count:
            row = first_row + pc.index(pc.is_null(values), True).as_py()
            raise ManifestError(
                f"{self.path}, row {row}: `{name}` is null. No image was read. Fix or drop the row, then run again."
            )


def _raw(strings: pa.ChunkedArray) -> list[bytes | None]:
    kind = strings.type.value_type if pa.types.is_dictionary(strings.type) else strings.type
    values: list[bytes | None] = strings.cast(kind).cast(pa.large_binary()).to_pylist()
    return values


def _is_utf8(raw: bytes | None) -> bool:
    try:
        return raw is None or raw.decode() is not None
    except UnicodeDecodeError:
        return False


def as_ids(uris: pa.Array) -> pa.Array:
    """Uris as ids, see `uri_as_id`."""
    if not pc.any(pc.match_substring_regex(uris, _MAY_HAVE_SECRETS)).as_py():
        return uris
    return pa.array([None if uri is None else uri_as_id(uri) for uri in uris.to_pylist()], pa.string())


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind))


def is_image_type(kind: pa.DataType) -> bool:
    """Whether a column holds images: their bytes, or a struct with them as on the Hugging Face hub."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and is_image_type(kind.field(kind.get_field_index("bytes")).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _smallest_leaf(schema: pa.Schema) -> str:
    plain = [field.name for field in schema if not pa.types.is_nested(field.type) and not is_image_type(field.type)]
    return plain[0] if plain else "image.path" if pa.types.is_struct(schema.field("image").type) else "image"
