"""A store as a data set folder that `datasets.load_dataset` opens, and that can be put on the hub as it is.

README.md                            the card: where the scores come from, and each column
data/train-00000-of-00002.parquet    the rows, with their features
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import chain
from typing import Final

import pyarrow as pa

from jobs.curate.row_writers import open_row_file
from jobs.export.kind import Exported, ExportSettings, not_ours, origin
from jobs.export.rows import StoresRows, description, open_rows
from jobs.storage.hub_features import with_features
from jobs.storage.place import Place
from jobs.storage.places import open_place
from jobs.storage.user_folder import foreign_file, growing_folder, publish_folder
from jobs.store.stores import Stores

CARD: Final = "README.md"
_OURS: Final = re.compile(r"README\.md|data/train-\d{5}-of-\d{5}\.parquet")
_MARK: Final = "<!-- Written by `artimuse export`, which replaces it. -->"
_FILE_ROWS: Final = 1_000_000
_TEXT_FILE_ROWS: Final = 200_000
"""Rows of a file without and with texts: some hundred megabytes, as the hub likes them."""


def write(stores: Stores, settings: ExportSettings) -> Exported:
    """Write the folder.

    Raises:
        ExportError: something else is there.
    """
    out = settings.target
    place = open_place(out)
    path = place.local_path("")
    if (path and os.path.isfile(path)) or foreign_file(place, _OURS.fullmatch, lambda: _is_marked(place)):
        raise not_ours(out)
    with open_rows(stores, settings.on_duplicate) as rows, growing_folder(out) as folder:
        size = _TEXT_FILE_ROWS if stores.text_schema.names else _FILE_ROWS
        files = max(1, -(-rows.count // size))
        os.mkdir(os.path.join(folder, "data"))
        about = {name.encode(): value.encode() for name, value in origin(stores).items()}
        batches = rows.batches()
        rest: list[pa.RecordBatch] = []
        for number in range(files):
            name = os.path.join(folder, "data", f"train-{number:05}-of-{files:05}.parquet")
            file = open_row_file("parquet", name, with_features(rows.schema))
            for batch in _first(size, chain(list(rest), batches), rest):
                file.write(pa.Table.from_batches([batch]))
            file.close(about)
        with open(os.path.join(folder, CARD), "w", encoding="utf-8") as card:
            card.write(_card(stores, rows))
        rows.check_unchanged()
        publish_folder(folder, place, [CARD], (CARD, _MARK.encode()))
        return Exported(out, rows.count, files, tuple(rows.notes))


def _first(size: int, batches: Iterator[pa.RecordBatch], rest: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The first rows of these batches; what is left of the last one is put into `rest`."""
    for batch in batches:
        yield batch.slice(0, size)
        size -= len(batch)
        if size <= 0:
            rest[:] = [batch.slice(len(batch) + size)] if size else []
            return


def _is_marked(place: Place) -> bool:
    try:
        return _MARK.encode() in place.read(CARD)
    except FileNotFoundError:
        return False


def _card(stores: Stores, rows: StoresRows) -> str:
    lines = [f"| `{field.name}` | {field.type} | {description(field)} |" for field in rows.schema]
    return f"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
---
{_MARK}

# Aesthetic scores

{rows.count:,} images, scored by {stores.first.fingerprint}.
A row whose `status` is `error` has no score, and says why.

| column | type | |
| --- | --- | --- |
{chr(10).join(lines)}
"""
