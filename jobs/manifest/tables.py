"""A manifest in tables (Parquet, Arrow, CSV, JSON lines), with uris or with the images themselves, streamed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Final

import pyarrow as pa

from artimuse_actor.errors import ManifestError
from artimuse_actor.node import node_bytes
from jobs.manifest.columns import Columns, item_type
from jobs.manifest.img2dataset import failed_note
from jobs.manifest.listing import ListedFile
from jobs.manifest.manifest import ROWS, Coverage, ManifestBatch, ManifestOptions, absolute_base
from jobs.manifest.partitions import Partitions
from jobs.manifest.table_rows import TableRows
from jobs.storage.user_files import BATCH_ROWS, limited
from jobs.storage.user_tables import UserTable, open_table

IMAGE_BATCH_ROWS: Final = 128  # with embedded images, since these may be read too, megabytes each
_COUNTED: Final = ["artimuse:counted"]
_BYTES_A_ROW: Final = 64  # two hashes, stored twice and sorted


@dataclass
class TableManifest:
    """A manifest in tables, read batch by batch on demand."""

    source: str
    files: list[ListedFile]
    options: ManifestOptions
    found: list[str] = field(default_factory=list)
    coverage: Coverage | None = None
    is_listed = False
    id_prefix = ""
    bad_rows: int = 0
    first_bad: str = ""
    failed_downloads: int = 0

    @property
    def notes(self) -> list[str]:
        """See `Manifest`; of bad rows, as many as were seen when it was last read."""
        said = [*self.found, *failed_note(self.failed_downloads)]
        if self.bad_rows:
            rows = "row names" if self.bad_rows == 1 else "rows name"
            said.append(f"{self.bad_rows:,} {rows} no image ({self.first_bad}): error rows of the type bad_row.")
        return said

    def identity(self) -> str:
        """See `Manifest`: a digest of the files' names, sizes and times, and of the options; reads no row."""
        listing = [[file.path, file.size_bytes, file.version] for file in self.files]
        options = self.options
        if options.images is not None:
            options = replace(options, images=absolute_base(options.images))
        return hashlib.sha256(json.dumps([listing, asdict(options)]).encode()).hexdigest()

    def columns(self) -> pa.Schema:
        """See `Manifest`: the columns of the first file with rows; where another file lacks one, its rows get nulls.

        A list of images is a column of images here, as each of them has a row.
        """
        return self._schema

    @cached_property
    def _schema(self) -> pa.Schema:
        for file in self.files:
            with open_table(file.path) as table:
                if table.num_rows != 0 or file is self.files[-1]:  # a part without rows may lack columns and types
                    return _itemised(_with_partitions(table.schema, self._partitions), self.options, file.path)
        raise AssertionError("a manifest has files")

    def image_column(self) -> str | None:
        """See `Manifest`."""
        return Columns.choose(self._schema, self.options, self.files[0].path).image

    @cached_property
    def _partitions(self) -> Partitions:
        return Partitions([file.image_id for file in self.files])

    def batches(self, own: Sequence[str] = (), *, keys: bool = True) -> Iterator[ManifestBatch]:
        """See `Manifest`."""
        schema = pa.schema([self._schema.field(name) for name in own]) if own else None
        self.bad_rows, self.failed_downloads, rows = 0, 0, 0
        for file in self.files:
            with open_table(file.path) as table:
                _refuse_too_many(file.path, rows + (table.num_rows or 0))
                if table.num_rows == 0:  # its columns may have no types
                    continue
                for batch in limited(self._file_batches(file, table, schema, keys)):
                    rows += batch.rows.num_rows
                    _refuse_too_many(file.path, rows)
                    yield batch

    def _file_batches(
        self, file: ListedFile, table: UserTable, own: pa.Schema | None, keys: bool
    ) -> Iterator[ManifestBatch]:
        schema = _with_partitions(table.schema, self._partitions)
        reader = TableRows(file, schema, self.options)
        folders = self._partitions.values(file.image_id)
        image = reader.columns.image
        mine = [name for name in own.names if name in schema.names] if own is not None else []
        batch_rows = IMAGE_BATCH_ROWS if image else BATCH_ROWS
        first_row = 0
        for group in range(table.groups):
            parts = table.image_parts(image, group) if image else []
            about = [*reader.keys, *parts] if keys or not mine else parts if reader.is_list else []
            about += reader.selecting
            asked = [name for name in dict.fromkeys([*about, *mine]) if name in table.schema.names or name in parts]
            if image in asked:  # whole, so no parts of it
                asked = [name for name in asked if name not in parts or name == image]
            counted = [] if asked else [_smallest_leaf(table.schema, image)]
            for _, row_in_group, rows in table.batches(group, asked or counted, batch_rows, reader.columns.types):
                full = _append(rows.rename_columns(_COUNTED) if counted else rows, folders, schema)
                exploded, items = reader.exploded(full)
                made = reader.rows(exploded, items, first_row, group, row_in_group) if keys else ROWS.empty_table()
                carried = reader.own(exploded, own) if own is not None else None
                self._count(reader)
                yield ManifestBatch(made, file.path, first_row, carried)
                first_row += rows.num_rows

    def _count(self, reader: TableRows) -> None:
        self.failed_downloads += reader.failed
        reader.failed = 0
        if reader.bad and not self.bad_rows:
            self.first_bad = f"the first is {reader.bad[0]}"
        self.bad_rows += len(reader.bad)
        reader.bad.clear()


def _with_partitions(schema: pa.Schema, partitions: Partitions) -> pa.Schema:
    """The columns of a file, and those of its folders' names that it lacks."""
    missing = [field for field in partitions.schema if field.name not in schema.names]
    return pa.schema([*schema, *missing], metadata=schema.metadata)


def _itemised(schema: pa.Schema, options: ManifestOptions, path: str) -> pa.Schema:
    """The same columns, with the type of an item for a list of images."""
    image = Columns.choose(schema, options, path).image
    if image is None:
        return schema
    column = schema.field(image)
    return schema.set(schema.get_field_index(image), column.with_type(item_type(column.type)))


def _append(rows: pa.Table, folders: dict[str, int | str | None], schema: pa.Schema) -> pa.Table:
    for name, value in folders.items():
        if name not in rows.column_names:
            kind = schema.field(name).type
            rows = rows.append_column(name, pa.repeat(pa.scalar(value, kind), rows.num_rows))
    return rows


def _refuse_too_many(path: str, rows: int) -> None:
    """Refuse more rows than memory can plan: a few bytes of a compressed file can expand to billions of rows."""
    if rows * _BYTES_A_ROW > node_bytes():
        raise ManifestError(
            f"{path}: makes {rows:,} rows; to plan them takes {_BYTES_A_ROW} bytes of memory each, and this machine "
            f"has {node_bytes():,}. No image was read. Score the files of this manifest one after the other."
        )


def _smallest_leaf(schema: pa.Schema, image: str | None) -> str:
    """A column that is read only to count the rows."""
    plain: list[str] = [f.name for f in schema if not pa.types.is_nested(f.type) and f.name != image]
    if plain or image is None:
        return plain[0]
    kind = schema.field(image).type
    return f"{image}.path" if pa.types.is_struct(kind) and "path" in kind.names else image
