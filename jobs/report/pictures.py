"""The pictures of a report with their data from the tables: a row, its texts, a thumbnail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.report.safe_text import cut, fair_limit, size_bytes, visible
from jobs.report.scored_rows import ScoredRows
from jobs.storage.parquet import open_parquet, read_parquet
from jobs.store.store import Store

_TEXT_BATCH_ROWS: Final = 1_024
_TEXT_BUFFER_BYTES: Final = 1024 * 1024  # of each column, which would be read whole otherwise: megabytes for each file
_THREADS: Final = 4
_COLUMNS: Final = (
    *("image_id", "uri", "error_type", "error_message", "width", "height", "format", "copied_from", "warning"),
)


@dataclass
class Picture:
    """One row of the scores table.

    Attributes:
        row: its number.
        uri: where its image is, to the letter; None if it was embedded.
        columns: of the scores table, as they are shown.
        texts: title → text, likewise.
    """

    row: int
    uri: str | None
    columns: Mapping[str, Any]
    texts: dict[str, str] = field(default_factory=dict)


def read_pictures(
    stores: Sequence[Store], scored: ScoredRows, rows: Sequence[int], *, texts: bool
) -> dict[int, Picture]:
    """The rows of these numbers, in the order of the table.

    Args:
        stores: whose rows, as for `scan_rows`.
        scored: where they are.
        rows: their numbers.
        texts: whether their texts are read, too.
    """
    wanted = list(scored.places(np.asarray(rows, dtype=np.int64)))
    columns = [*_COLUMNS, *(name for question in stores[0].questions for name in (question, f"{question}_std"))]
    files = [store.table_files() if texts and store.texts else None for store in stores]

    def read(file: int, places: Any) -> list[Picture]:
        (number, path), start = scored.files[file], int(scored.starts[file])
        store, beside_it = stores[number], files[number]
        table = read_parquet(store.place, path, columns).take(pa.array(places))
        values = zip(*(_values(table[name]) for name in columns), strict=True)
        rows = [dict(zip(columns, row, strict=True)) for row in values]
        found = [Picture(start + int(place), row["uri"], row) for place, row in zip(places, rows, strict=True)]
        if beside := beside_it and beside_it.texts_beside(path):
            _read_texts(store, beside, {picture.columns["image_id"]: picture for picture in found})
        return found

    with ThreadPoolExecutor(_THREADS) as pool:
        return {picture.row: picture for found in pool.map(lambda one: read(*one), wanted) for picture in found}


def _read_texts(store: Store, path: str, pictures: Mapping[str, Picture]) -> None:
    """Give pictures their texts; a file is read as far as it must be, since all of it may be gigabytes."""
    assert store.texts is not None
    ids = read_parquet(store.place, path, ["image_id"])["image_id"]
    places = np.flatnonzero(np.asarray(pc.is_in(ids, pa.array(list(pictures), pa.string()))))
    columns = store.texts.columns
    with open_parquet(store.place, path, buffer_size=_TEXT_BUFFER_BYTES) as parquet:
        start = 0
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            here, start = places[(places >= start) & (places < start + rows)] - start, start + rows
            for some in _taken(parquet, group, here, ["image_id", *columns]):
                for title, column in zip(columns.values(), columns, strict=True):
                    for name, text in zip(_values(some["image_id"]), _values(some[column]), strict=True):
                        if text is not None:
                            pictures[name].texts[title] = text


def _taken(parquet: pq.ParquetFile, group: int, places: Any, columns: list[str]) -> Iterator[pa.Table]:
    """The rows at these places of a row group, which is read up to the last of them."""
    batches = parquet.iter_batches(_TEXT_BATCH_ROWS, row_groups=[group], columns=columns)
    start = 0
    while len(places):
        batch = pa.table(next(batches))
        yield batch.take(pa.array(places[places < start + len(batch)] - start))
        start += len(batch)
        places = places[places >= start]


def _values(column: pa.ChunkedArray) -> Iterator[Any]:
    """The values of a column; invalid UTF-8 is escaped."""
    if not pa.types.is_string(column.type):
        return iter(column.to_pylist())
    raw = column.cast(pa.binary()).to_pylist()
    return (None if text is None else text.decode("utf-8", errors="backslashreplace") for text in raw)


def shorten(pictures: Sequence[Picture], names_budget: int, texts_budget: int) -> None:
    """Escape hidden characters in names and texts, and cut the longest so that all together fit into these budgets."""
    for picture in pictures:
        picture.columns = _each_text(picture.columns, visible)
        picture.texts = _each_text(picture.texts, visible)
    names = [value for picture in pictures for value in picture.columns.values() if isinstance(value, str)]
    texts = [text for picture in pictures for text in picture.texts.values()]
    longest_name, longest_text = (
        fair_limit([size_bytes(text) for text in kind], budget)
        for kind, budget in ((names, names_budget), (texts, texts_budget))
    )
    for picture in pictures:
        picture.columns = _each_text(picture.columns, partial(cut, limit_bytes=longest_name))
        picture.texts = _each_text(picture.texts, partial(cut, limit_bytes=longest_text))


def _each_text(values: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    return {name: change(value) if isinstance(value, str) else value for name, value in values.items()}
