"""Parquet files of a place; one that is cut short is refused."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from artimuse_actor.errors import BrokenFile
from jobs.storage.place import Place, failed, gone
from schemas.scores import LATER

COMPRESSION: Final = "zstd"


def read_parquet(place: Place, path: str, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file of a store as a table; columns that came later than the file are null.

    Raises:
        GoneFile: it is not there; also a FileNotFoundError.
        BrokenFile: it is not a whole Parquet file, or it lacks one of the columns.
    """
    with open_parquet(place, path) as parquet:
        absent = set(columns or ()) - set(parquet.schema_arrow.names)
        if unknown := absent.difference(field.name for field in LATER):
            raise pa.ArrowInvalid(f"it has no column {', '.join(sorted(unknown))}")
        if columns is None or not absent:
            return parquet.read(columns=columns)
        return with_later_columns(parquet.read(columns=[name for name in columns if name not in absent]), columns)


def with_later_columns(rows: pa.Table, columns: Iterable[str]) -> pa.Table:
    """These columns of rows that may be of an earlier version; what came later is null."""
    for field in LATER:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows.select(list(columns))


def parquet_from(data: bytes, name: str) -> pa.Table:
    """The table of a Parquet file's bytes; `name` is for the message. Raises BrokenFile."""
    try:
        return parquet_file(io.BytesIO(data)).read()
    except (pa.ArrowInvalid, OSError) as error:
        raise _broken(name, error) from error


def read_footer(place: Place, path: str) -> pq.FileMetaData:
    """Row count and metadata of a Parquet file of a store. Raises as `read_parquet`."""
    with open_parquet(place, path) as parquet:
        return parquet.metadata


def is_whole(place: Place, path: str) -> bool:
    """Whether a Parquet file is there and has its footer."""
    try:
        read_footer(place, path)
    except (BrokenFile, FileNotFoundError):
        return False
    return True


@contextmanager
def open_parquet(place: Place, path: str, **options: Any) -> Iterator[Any]:
    """A Parquet file of a store, for reading in the block.

    Raises:
        GoneFile: it is not there; also a FileNotFoundError.
        BrokenFile: it is not a whole Parquet file, or lacks what is read.
        StoreError: it cannot be read now.
    """
    try:
        with place.open(path) as file:
            yield parquet_file(file, **options)
    except FileNotFoundError as error:
        raise gone(place, path) from error
    except Exception as error:
        # pyarrow reports a damaged footer as an OSError; one of the storage has a number, or a type of its own.
        if isinstance(error, pa.ArrowInvalid) or (type(error) is OSError and error.errno is None):
            raise _broken(place.uri(path), error) from error
        if _is_of_storage(error):
            raise failed(place, path, error) from error
        raise


def _is_of_storage(error: Exception) -> bool:
    from aiohttp import ClientError
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

    return isinstance(error, OSError | BotoCoreError | ClientError)


def _broken(name: str, error: Exception) -> BrokenFile:
    return BrokenFile(
        f"{name}: is not a whole file of ours ({' '.join(str(error).split())[:200]}). "
        "Move it away and run again; its rows are scored again."
    )


def parquet_file(file: IO[bytes], **options: Any) -> pq.ParquetFile:
    """Open a Parquet file: pyarrow's threads read a file of pyarrow's own, the calling thread reads any other.

    A thread of pyarrow may be the last to release a file. To release a Python file it needs the interpreter, and if
    that is shutting down, the process aborts with exit code 134 or 139.
    """
    if isinstance(file, pa.NativeFile):
        return pq.ParquetFile(file, **options)
    return _OneThreadParquetFile(file, **options | {"pre_buffer": False})


class _OneThreadParquetFile(pq.ParquetFile):  # type: ignore[misc]  # pyarrow has no types
    def read(self, *args: Any, **options: Any) -> pa.Table:
        return super().read(*args, **options, use_threads=False)

    def read_row_group(self, *args: Any, **options: Any) -> pa.Table:
        return super().read_row_group(*args, **options, use_threads=False)

    def iter_batches(self, *args: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        yield from super().iter_batches(*args, **options, use_threads=False)


def parquet_bytes(table: pa.Table, row_group_rows: int | None = None, dictionaries: bool | list[str] = True) -> bytes:
    """A table as the bytes of a Parquet file, compressed, with a page index.

    Args:
        table: the rows.
        row_group_rows: rows of each row group but the last; None for the library's default.
        dictionaries: columns that repeat values.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression=COMPRESSION,
        row_group_size=row_group_rows,
        use_dictionary=dictionaries,
        write_page_index=True,
    )
    return bytes(sink.getvalue())
