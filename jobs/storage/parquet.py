"""Parquet files of a place: whole or refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from artimuse_actor.errors import BrokenFile
from jobs.storage.place import Place


def read_parquet(place: Place, path: str, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file of our own as a table.

    Raises:
        FileNotFoundError: it is not there.
        BrokenFile: it is not a whole Parquet file, or of another table.
    """
    with _whole_parquet(place, path) as parquet:
        if unknown := set(columns or ()) - set(parquet.schema_arrow.names):
            raise pa.ArrowInvalid(f"it has no column {', '.join(sorted(unknown))}")
        return parquet.read(columns=columns)


def read_footer(place: Place, path: str) -> pq.FileMetaData:
    """Row count and metadata of a Parquet file of our own. Raises as `read_parquet`."""
    with _whole_parquet(place, path) as parquet:
        return parquet.metadata


def is_whole(place: Place, path: str) -> bool:
    """Whether a Parquet file is there and has its footer."""
    try:
        read_footer(place, path)
    except (BrokenFile, FileNotFoundError):
        return False
    return True


@contextmanager
def _whole_parquet(place: Place, path: str) -> Iterator[Any]:
    with place.open(path) as file:
        try:
            yield pq.ParquetFile(file)
        except (pa.ArrowInvalid, OSError) as error:
            # pyarrow calls a damaged footer an OSError too, one without a number; others are the storage's fault.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise BrokenFile(
                f"{place.uri(path)}: is not a whole file of ours ({' '.join(str(error).split())[:200]}). "
                "Move it away and run again; its rows are scored anew."
            ) from error


def parquet_bytes(table: pa.Table, row_group_rows: int | None = None, dictionaries: bool | list[str] = True) -> bytes:
    """A table as the bytes of a Parquet file, compressed with zstd; `dictionaries` names columns that repeat values."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=row_group_rows, use_dictionary=dictionaries)
    return bytes(sink.getvalue())
