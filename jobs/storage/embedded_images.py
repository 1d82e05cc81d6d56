"""Images that a Parquet or Arrow file holds itself, read one by one in bounded memory.

A Parquet file of two kilobytes can stand for gigabytes, so no row group is read as a whole: each image is decoded by
itself, under a memory limit where no model shares the process. The reader stays open, since the units of a row group
follow each other.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import IO, Any, Final

import pyarrow as pa

from artimuse_actor.errors import ImageError
from artimuse_actor.uris import user_path
from jobs.storage.parquet import parquet_file
from jobs.storage.user_files import LIMIT_BYTES, is_remote, limited, open_source
from jobs.storage.user_tables import ARROW, arrow_batches

_BUFFER_BYTES: Final = 1 << 20  # without a buffer the whole compressed row group is read at once


def embedded_image(
    path: str, version: str | None, row_group: int, row: int, column: str = "image", item: int | None = None
) -> bytes | None:
    """The bytes in a row's column, or in an item of its list; None if they are null.

    Cheap if rows are read in the order of the file. The version is of the file: with another, it is opened again.

    Raises:
        ImageError: `too_large`: they, or those of a row before, take more memory than is allowed.
        FileNotFoundError: there is no such file.
        OSError, pa.ArrowException: it is no such table, or has no such row.
    """
    rows = _rows(path, version, row_group, column)
    if row < rows.next_row - 1:
        _rows.cache_clear()
        rows = _rows(path, version, row_group, column)
    image = rows.read(row)
    if item is not None:
        if not image.is_valid or item >= len(image):
            raise pa.ArrowInvalid("the row has fewer images")
        image = image[item]
    value = image.as_py()
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else None


class _Rows:
    """One column of one row group, read forwards.

    Attributes:
        next_row: number of the next row; the one before it can be read again.
    """

    def __init__(self, path: str, version: str | None, row_group: int, column: str) -> None:  # noqa: ARG002 - of the cache's key
        self._path, self._column = path, column
        self._batches = _batches_of(path, row_group, column)
        self._too_large: ImageError | None = None
        self._last: Any = None
        self.next_row = 0

    def read(self, row: int) -> Any:
        if self._too_large:
            raise self._too_large
        while self.next_row <= row:
            try:
                self._last = next(self._batches)[self._column][0]
            except MemoryError:
                # A reader that was refused memory does not go on, so its later rows are lost too.
                self._too_large = ImageError(
                    "too_large",
                    f"To read row {self.next_row} of its row group in {self._path} takes more than {LIMIT_BYTES:,} "
                    "bytes of memory. Write the file again with smaller images and pages.",
                )
                raise self._too_large from None
            except StopIteration:
                raise pa.ArrowInvalid(f"there are {self.next_row} rows in this row group") from None
            self.next_row += 1
        return self._last


def _batches_of(path: str, row_group: int, column: str) -> Iterator[Any]:
    """The rows of a group, each a record batch with this column."""
    is_arrow = path.lower().endswith(ARROW)
    opened = pa.memory_map if is_arrow else pa.OSFile
    file: IO[bytes] = open_source(path) if is_remote(path) else opened(os.fsencode(user_path(path)), "r")
    if is_arrow:
        found = arrow_batches(file)
        _check_column(column, found.schema)
        if row_group >= found.num_record_batches:
            raise pa.ArrowInvalid(f"there are {found.num_record_batches} record batches in it")
        batch = found.get_batch(row_group).select([column])
        return (batch.slice(row, 1) for row in range(batch.num_rows))
    parquet = parquet_file(file, buffer_size=_BUFFER_BYTES)
    _check_column(column, parquet.schema_arrow)
    batches = parquet.iter_batches(1, row_groups=[row_group], columns=[column])
    # The limit is one of the process, and beside the main thread a model may take its memory.
    is_alone = threading.current_thread() is threading.main_thread()
    return limited(batches) if is_alone else batches


def _check_column(column: str, schema: pa.Schema) -> None:
    if column not in schema.names:
        raise pa.ArrowInvalid(f"it has no column `{column}`")


_rows = lru_cache(maxsize=1)(_Rows)
