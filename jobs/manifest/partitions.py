"""Columns that a partitioned table has in the names of its folders: `dt=2026-01-01/country=de/part-0.parquet`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote

import pyarrow as pa

_NULL: Final = "__HIVE_DEFAULT_PARTITION__"
_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]{0,18}")
_MAX_INTEGER: Final = 2**63


class Partitions:
    """The columns that folders of the form `name=value` stand for, in all files of a table.

    Values are percent-decoded, as Spark and pyarrow write them. A column is of int64 if all its values are integers as
    they are usually written, else of string.

    Attributes:
        schema: the columns.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        """Read them from paths below the table's folder."""
        found: dict[str, set[str]] = {}
        for folder in {path.rpartition("/")[0] for path in paths}:
            for name, value in _parts(folder).items():
                found.setdefault(name, set()).add(value)
        self.schema = pa.schema(
            [(name, pa.int64() if all(map(_is_integer, values)) else pa.string()) for name, values in found.items()]
        )

    def values(self, path: str) -> dict[str, int | str | None]:
        """Column → value of a file's rows; None for a column that its path lacks."""
        parts = _parts(path.rpartition("/")[0])
        return {field.name: _value(parts.get(field.name, _NULL), field.type) for field in self.schema}


def _parts(folder: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in folder.split("/"))
    return {unquote(name): unquote(value) for name, equals, value in pairs if name and equals}


def _is_integer(text: str) -> bool:
    if text == _NULL:
        return True
    # `007` stays a text, and with it all of its column.
    return bool(_INTEGER.fullmatch(text)) and -_MAX_INTEGER <= int(text) < _MAX_INTEGER


def _value(text: str, kind: pa.DataType) -> int | str | None:
    if text == _NULL:
        return None
    return int(text) if pa.types.is_integer(kind) else text
