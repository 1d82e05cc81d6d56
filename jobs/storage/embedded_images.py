"""Images that a Parquet file holds itself, read one by one in bounded memory.

A file of two kilobytes can stand for gigabytes, so no row group is read as a whole: each image is decoded by itself,
under a memory limit where no model shares the process. The reader stays open, since the units of a row group follow
each other.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import IO, Any, Final

import pyarrow as pa

from artimuse_actor.errors import ImageError
from jobs.storage.parquet import parquet_file
from jobs.storage.s3_place import s3_filesystem
from jobs.storage.user_files import LIMIT_BYTES, limited

_BUFFER_BYTES: Final = 1 << 20  # without a buffer the whole compressed row group is read at once


def embedded_image(path: str, version: str | None, row_group: int, row: int) -> bytes | None:
    """The bytes in a row's column `image`; None if they are null. Cheap if rows are read in the order of the file.

    Raises:
        ImageError: `too_large`: they, or those of a row before, take more memory than is allowed.
        FileNotFoundError: there is no such file.
        OSError, pa.ArrowException: it is no such table, or has no such row.
    """
    rows = _rows(path, version, row_group)
    if row < rows.next_row:
        _rows.cache_clear()
        rows = _rows(path, version, row_group)
    image = rows.read(row)
    data = image.get("bytes") if isinstance(image, dict) else image
    return data if isinstance(data, bytes) else None


class _Rows:
    """The column `image` of one row group, read forwards.

    Attributes:
        next_row: number of the next row.
    """

    def __init__(self, path: str, version: str | None, row_group: int) -> None:  # noqa: ARG002 - of the cache's key
        self._path = path
        file: IO[bytes] = s3_filesystem().open(path, "rb") if path.startswith("s3://") else pa.OSFile(path, "rb")
        parquet = parquet_file(file, buffer_size=_BUFFER_BYTES)
        if "image" not in parquet.schema_arrow.names:
            raise pa.ArrowInvalid("it has no column `image`")
        batches = parquet.iter_batches(1, row_groups=[row_group], columns=["image"])
        # The limit is one of the process, and beside the main thread a model may take its memory.
        is_alone = threading.current_thread() is threading.main_thread()
        self._batches = limited(batches) if is_alone else batches
        self._too_large: ImageError | None = None
        self.next_row = 0

    def read(self, row: int) -> Any:
        if self._too_large:
            raise self._too_large
        images: Any = None
        while self.next_row <= row:
            try:
                images = next(self._batches)["image"]
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
        return images[0].as_py()


_rows = lru_cache(maxsize=1)(_Rows)
