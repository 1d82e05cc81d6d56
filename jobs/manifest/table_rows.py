"""Rows of one table → rows that name images: ids, uris, versions, and where in the file an image is."""

from __future__ import annotations

import os
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from artimuse_actor.errors import ManifestError, one_line
from jobs.manifest.columns import (
    Columns,
    as_ids,
    canonical_uris,
    is_list,
    is_text,
    joined_ids,
    text_of,
)
from jobs.manifest.img2dataset import is_failed
from jobs.manifest.listing import ListedFile
from jobs.manifest.manifest import ROW, ROWS, ManifestOptions, absolute

MAX_TEXT_BYTES: Final = 32 * 1024  # of an id, uri or version: ten times the longest signed urls


class TableRows:
    """Finds the columns of one table that are the id, the uri and so on, checks and renames them.

    Attributes:
        columns: which they are.
        keys: those that a plan reads, without the image.
        selecting: those that say which rows have an image.
        is_list: whether a row holds a list of images; each becomes a row.
        failed: number of rows without one.
        bad: places of rows that named no image, such as `a.parquet, row 7`.
    """

    def __init__(self, file: ListedFile, schema: pa.Schema, options: ManifestOptions) -> None:
        self.path = file.path
        self._file, self._options = file, options
        self.columns = Columns.choose(schema, options, file.path)
        named = [*self.columns.ids, self.columns.uri, self.columns.version, self.columns.gt_score]
        self.keys = list(dict.fromkeys(name for name in named if name))
        self.selecting = [self.columns.status] if self.columns.status else []
        self.is_list = self.columns.image is not None and is_list(schema.field(self.columns.image).type)
        self.bad: list[str] = []
        self.failed = 0
        self._bad: pa.Array = pa.array([], pa.bool_())
        self._base = options.images or folder_of(file.path)

    def exploded(self, table: pa.Table) -> tuple[pa.Table, pa.Array | None]:
        """A row for each item of a list of images, and the items' places in it; other tables without failed rows."""
        image = self.columns.image
        if self.columns.status:
            failed = is_failed(table[self.columns.status])
            self.failed += pc.sum(failed).as_py() or 0
            return _numbered(table).filter(pc.invert(failed)), None
        if not self.is_list or image not in table.column_names:
            return table, None
        lists = table[image].combine_chunks()
        parents = pc.list_parent_indices(lists)
        starts = pc.index_in(parents, parents)  # of each item's row
        items = pc.subtract(pa.array(range(len(parents)), pa.int32()), starts)
        return _numbered(table.drop_columns([image])).take(parents).append_column(_ITEM, pc.list_flatten(lists)), items

    def rows(self, table: pa.Table, items: pa.Array | None, first_row: int, group: int, row_in_group: int) -> pa.Table:
        """The rows of schema `ROWS`."""
        count = table.num_rows
        is_numbered = _ROW in table.column_names
        own_row = table[_ROW].combine_chunks() if is_numbered else pa.array(range(count), pa.int32())
        self._bad = pa.repeat(False, count)
        self._places = pc.add(own_row.cast(pa.int64()), first_row)
        uri, needs_uri = self._uris(table)
        uri = pc.if_else(pc.equal(uri, ""), None, uri)  # else it would be the folder of the table
        ids = joined_ids([self._strings(table, name) for name in self.columns.ids]) if self.columns.ids else None
        version = self._strings(table, self.columns.version) if self.columns.version else pa.nulls(count, pa.string())
        if ids is not None:
            for name in self.columns.ids:
                self._no_null(ids, name)
        if needs_uri:
            self._no_null(uri, self.columns.uri or self.columns.image or "")
        here = pc.and_(pc.is_null(uri), pc.invert(self._bad))
        image_id = self._ids(ids, as_ids(uri), items)
        if self.columns.version is None:
            # An embedded image may have changed whenever its file changed.
            version = pc.if_else(here, pa.scalar(self._file.version, pa.string()), version)
        uri = pc.if_else(self._bad, None, absolute(canonical_uris(uri), self._base))
        self._note_bad()
        none = pa.nulls(count, pa.int32())
        texts = [
            pc.if_else(here, pa.scalar(text, pa.string()), pa.scalar(None, pa.string())).dictionary_encode()
            for text in (self.path, self._file.version, self.columns.image)
        ]
        return pa.table(
            {
                "image_id": image_id,
                "uri": uri,
                "version": pc.if_else(self._bad, None, version),
                "source_file": texts[0],
                "source_version": texts[1],
                "source_row_group": pc.if_else(here, pa.scalar(group, pa.int32()), none),
                "source_row": pc.if_else(here, pc.add(own_row, pa.scalar(row_in_group, pa.int32())), none),
                "source_column": texts[2],
                "question": pa.nulls(count, pa.string()),
                "source_item": none if items is None else pc.if_else(here, items, none),
                "gt_score": table[self.columns.gt_score].cast(pa.float64())
                if self.columns.gt_score
                else pa.nulls(count, pa.float64()),
            },
            schema=ROWS,
        )

    def own(self, table: pa.Table, schema: pa.Schema) -> pa.Table:
        """The user's own columns; null where this file lacks one."""
        try:
            here = {name: name for name in table.column_names}
            if self.is_list and self.columns.image:
                here[self.columns.image] = _ITEM
            columns = [
                table[here[field.name]].cast(field.type) if field.name in here else pa.nulls(table.num_rows, field.type)
                for field in schema
            ]
        except pa.ArrowException as error:
            raise ManifestError(
                f"{self.path}: its columns are of other types than in the first file: {error}."
            ) from error
        return pa.table(columns, schema=pa.schema([field.with_nullable(True) for field in schema]))

    def _uris(self, table: pa.Table) -> tuple[pa.Array, bool]:
        """The uri of each row, null where the image is in the table; and whether it must not be null."""
        none = pa.nulls(table.num_rows, pa.string())
        name = self.columns.image
        uri = self._strings(table, self.columns.uri) if self.columns.uri else none
        if name is None:
            return uri, True
        held = _ITEM if self.is_list else name
        if held not in table.column_names:  # all are there
            return uri, False
        images = table[held]
        if is_text(images.type):
            return self._strings(table, held), True
        if not pa.types.is_struct(images.type) or "path" not in images.type.names:
            return uri, False
        paths = self._clean(pc.struct_field(images, "path"), f"{name}.path")
        if "bytes" in images.type.names:  # only then some rows have bytes
            paths = pc.if_else(pc.is_null(pc.struct_field(images, "bytes").combine_chunks()), paths, none)
        return pc.coalesce(uri, paths), False

    def _ids(self, ids: pa.Array | None, of_uris: pa.Array, items: pa.Array | None) -> pa.Array:
        if ids is None and items is None and not of_uris.null_count and not self._has_bad:
            return of_uris
        numbered = [f"{self._file.image_id}#{row}" for row in self._places.to_pylist()]
        made = pa.array(numbered, pa.string())
        if ids is not None:
            made = pc.coalesce(ids, made)
        if items is not None:
            return pc.binary_join_element_wise(made, items.cast(pa.string()), "#")
        return made if ids is not None else pc.if_else(self._bad, made, pc.coalesce(of_uris, made))

    @property
    def _has_bad(self) -> bool:
        return bool(pc.any(self._bad).as_py())

    def _strings(self, table: pa.Table, name: str) -> pa.Array:
        return self._clean(table[name], self.columns.image if name == _ITEM else name)

    def _clean(self, column: pa.ChunkedArray, name: str | None) -> pa.Array:
        """A column as text; what cannot be a text is an error, or a bad row and null."""
        try:
            strings = text_of(column)
        except pa.ArrowInvalid as error:
            raw = _raw(column)
            wrong = pa.array([not _is_utf8(value) for value in raw], pa.bool_())
            self._refuse(wrong, f"`{name}` cannot be read as text: {one_line(str(error))}", "Write it again as UTF-8")
            strings = pa.array([value.decode() if value is not None and _is_utf8(value) else None for value in raw])
        lengths = pc.binary_length(strings)
        if (pc.max(lengths).as_py() or 0) > MAX_TEXT_BYTES:
            long = pc.fill_null(pc.greater(lengths, MAX_TEXT_BYTES), False)
            self._refuse(long, f"`{name}` is longer than {MAX_TEXT_BYTES:,} bytes", "Fix or drop the row")
            strings = pc.if_else(long, None, strings)
        return strings

    def _no_null(self, values: pa.Array, name: str) -> None:
        if values.null_count:
            self._refuse(pc.is_null(values), f"`{name}` is null", "Fix or drop the row")

    def _refuse(self, wrong: pa.Array, what: str, next_step: str) -> None:
        """Raise ManifestError for the first of these rows, or note that they are bad."""
        if self._options.on_bad_row == ROW:
            self._bad = pc.or_(self._bad, wrong)
            return
        row = self._places[pc.index(wrong, True).as_py()]
        raise ManifestError(
            f"{self.path}, row {row}: {what}. No image was read. {next_step}, then run again; or let such rows be "
            "error rows with --on-bad-row row."
        )

    def _note_bad(self) -> None:
        if self._has_bad:
            self.bad += [f"row {row} of {self.path}" for row in self._places.filter(self._bad).to_pylist()]


_ROW: Final = "artimuse:row"
_ITEM: Final = "artimuse:item"


def _numbered(table: pa.Table) -> pa.Table:
    """A table with the number of each row, so that it is known when there are fewer or more."""
    return table.append_column(_ROW, pa.array(range(len(table)), pa.int32()))


def folder_of(path: str) -> str:
    """The folder of a table: of a partitioned one, that of its partitions."""
    folder = os.path.dirname(path)
    while "=" in os.path.basename(folder):
        folder = os.path.dirname(folder)
    return folder


def _raw(strings: pa.ChunkedArray) -> list[bytes | None]:
    kind = strings.type.value_type if pa.types.is_dictionary(strings.type) else strings.type
    values: list[Any] = strings.cast(kind).cast(pa.large_binary()).to_pylist()
    return values


def _is_utf8(raw: bytes | None) -> bool:
    try:
        return raw is None or raw.decode() is not None
    except UnicodeDecodeError:
        return False
