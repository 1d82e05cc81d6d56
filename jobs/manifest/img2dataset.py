"""What img2dataset writes: a table a shard, with a row for each url, beside its tar or its folder, or with the images.

A row has a `key`, which is the name of its image's files, and a `status`: where that is not `success` is no image.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from jobs.manifest.listing import ListedFile
from jobs.storage.user_files import BATCH_ROWS
from jobs.storage.user_tables import open_table

KEY: Final = "key"
STATUS: Final = "status"
SUCCESS: Final = "success"
_ENCODINGS: Final = ("jpg", "png", "webp")


def is_output(schema: pa.Schema) -> bool:
    """Whether a table is one of img2dataset's."""
    return {KEY, STATUS, "url", "error_message"} <= set(schema.names)


def image_column(schema: pa.Schema) -> str | None:
    """The column with the images, in its format `parquet`; None in the others."""
    named = (name for name in _ENCODINGS if name in schema.names and pa.types.is_binary(schema.field(name).type))
    return next(named, None) if is_output(schema) else None


def tables_beside(files: Sequence[ListedFile], listed: Sequence[ListedFile]) -> dict[str, ListedFile]:
    """Path of a tar → the table of the same name beside it, if it is listed, or is on the disk."""
    tables = {file.path: file for file in listed if file.path.endswith(".parquet")}
    found = {}
    for file in files:
        path = f"{os.path.splitext(file.path)[0]}.parquet"
        if "://" not in path and path not in tables and os.path.exists(path):
            tables[path] = ListedFile(path, os.path.basename(path), None, None)
        if path in tables:
            found[file.path] = tables[path]
    return found


def shard_tables(pictures: Sequence[ListedFile], listed: Sequence[ListedFile]) -> list[ListedFile]:
    """The tables beside folders of pictures, of its format `files`."""
    folders = {file.path.rpartition("/")[0] for file in pictures}
    numbered = (file for file in listed if re.search(r"/\d+\.parquet$", file.path))
    return [file for file in numbered if file.path.removesuffix(".parquet") in folders]


def read_columns(path: str, names: Sequence[str]) -> pa.Table | None:
    """Columns of one of its tables; null where it lacks one. None if it is another table. Raises ManifestError."""
    with open_table(path) as table:
        if not is_output(table.schema):
            return None
        here = list(dict.fromkeys(name for name in names if name in table.schema.names))
        parts = [rows for group in range(table.groups) for _, _, rows in table.batches(group, here, BATCH_ROWS)]
        found = pa.concat_tables([pa.schema([table.schema.field(name) for name in here]).empty_table(), *parts])
        for name in names:
            if name not in here:
                found = found.append_column(name, pa.nulls(len(found)))
        return found


def failed_rows(tables: Sequence[ListedFile]) -> int:
    """Rows without an image. Raises ManifestError."""
    failed = 0
    for file in tables:
        rows = read_columns(file.path, [STATUS])
        failed += 0 if rows is None else pc.sum(is_failed(rows[STATUS])).as_py() or 0
    return failed


def is_failed(status: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether each row has no image."""
    return pc.fill_null(pc.not_equal(status, SUCCESS), True)


def failed_note(count: int) -> list[str]:
    """A sentence about them, if there are any."""
    return [f"{count:,} urls have no image, since img2dataset could not download or read it (status)."] if count else []
