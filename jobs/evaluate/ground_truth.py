"""Ground truth: people's ratings of images, from a benchmark's JSON, a table, or the JSON beside images in a tar.

Each row names an image and rates it, on a scale of its own. Nothing is dropped here: a row that names no
image is an error, and one without a number is counted.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from artimuse_actor.errors import GroundTruthError, ManifestError, one_line
from jobs.evaluate.tar_truths import tar_truths
from jobs.evaluate.truth_columns import COLUMN_TYPES, TruthColumns, truth_table
from jobs.manifest.listing import list_files
from jobs.manifest.source import open_tars
from jobs.manifest.tars import is_tar
from jobs.storage.user_files import BATCH_ROWS, is_hidden, is_unicode, limited, open_source
from jobs.storage.user_tables import TABLES, is_table, open_table


def read_ground_truth(source: str, columns: TruthColumns) -> Iterator[pa.Table]:
    """A source of ground truth, in batches of the columns `key`, `truth`, and as chosen `group` and `cluster`.

    Args:
        source: a `.json` list of objects, a table (CSV, JSON lines, Parquet, Arrow), a folder or glob of tables, or
            tars of images with a JSON object beside each; local or on S3. Texts may be gzipped.
        columns: see `TruthColumns`.

    Raises:
        GroundTruthError: it cannot be read, or a row is wrong; the message names the row.
    """
    with _own_errors(source):
        if _is_json(source):
            yield from _json_tables(source, columns)
        elif is_tar(source) and (tars := open_tars(source)):
            yield from tar_truths(tars, columns)
        else:
            yield from _tables(source, columns)


def column_names(source: str) -> list[str]:
    """The columns of one file that `read_ground_truth` reads; of JSON those of the first thousand entries.

    Raises:
        GroundTruthError: it cannot be read.
    """
    with _own_errors(source):
        if _is_json(source):
            return _json_names(_json_entries(source))
        with open_table(source) as table:
            return list(table.schema.names)


def names_table(path: str) -> bool:
    """Whether a path is that of one file of rows, by its suffix."""
    return _is_json(path) or is_table(path)


def _is_json(path: str) -> bool:
    return path.lower().endswith((".json", ".json.gz"))


@contextmanager
def _own_errors(source: str) -> Iterator[None]:
    try:
        yield
    except ManifestError as error:  # of the readers that manifests have too
        raise GroundTruthError(str(error)) from error
    except FileNotFoundError:
        raise GroundTruthError(f"{source}: there is no such file.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise GroundTruthError(f"{source}: cannot be read: {one_line(str(error))}.") from error


def _tables(source: str, columns: TruthColumns) -> Iterator[pa.Table]:
    paths = [file.path for file in list_files(source).named if is_table(file.path) and not is_hidden(file.image_id)]
    if not paths:
        raise GroundTruthError(
            f"{source}: is neither JSON nor a table ({', '.join(TABLES)}), and there is no table in it."
        )
    for path in paths:
        first_row = 0
        with open_table(path) as table:
            names = columns.chosen(table.schema.names, path)
            wanted = list(dict.fromkeys(names.values()))
            # A key of digits is still a name: 007 is not 7.
            types = {name: COLUMN_TYPES[role] for role, name in names.items()}
            for group in range(table.groups):
                for _, _, batch in limited(table.batches(group, wanted, BATCH_ROWS, types)):
                    yield truth_table(batch, columns, path, first_row)
                    first_row += len(batch)


def _json_tables(source: str, columns: TruthColumns) -> Iterator[pa.Table]:
    entries = _json_entries(source)
    names = columns.chosen(_json_names(entries), source) if entries else {"key": "", "truth": ""}
    for start in range(0, len(entries), BATCH_ROWS):
        batch = enumerate(entries[start : start + BATCH_ROWS], start)
        rows = [_json_row(entry, names, f"{source}, entry {number}") for number, entry in batch]
        yield pa.Table.from_pylist(rows, schema=pa.schema([(role, COLUMN_TYPES[role]) for role in names]))


def _json_entries(source: str) -> list[Any]:
    with open_source(source) as raw, gzip.open(raw) if source.lower().endswith(".gz") else raw as file:
        try:
            entries = json.load(file)
        except (ValueError, RecursionError) as error:
            raise GroundTruthError(f"{source}: is not valid JSON: {one_line(str(error))}.") from error
    if not isinstance(entries, list):
        raise GroundTruthError(f'{source}: is not a list of objects such as {{"image": …, "gt_score": …}}.')
    return entries


def _json_names(entries: list[Any]) -> list[str]:
    return list(dict.fromkeys(name for entry in entries[:1000] if isinstance(entry, dict) for name in entry))


def _json_row(entry: Any, names: Mapping[str, str], where: str) -> dict[str, Any]:
    """Role → value of one object."""
    if not isinstance(entry, dict):
        raise GroundTruthError(f"{where}: is no object.")
    key, truth = entry.get(names["key"]), entry.get(names["truth"])
    if not isinstance(key, str | int) or isinstance(key, bool) or not is_unicode(str(key)):
        raise GroundTruthError(f"{where}: has no `{names['key']}` that names an image.")
    if truth is not None and (isinstance(truth, bool) or not isinstance(truth, int | float)):
        raise GroundTruthError(f"{where}: `{names['truth']}` is {truth!r}, not a number.")
    try:
        points = None if truth is None else float(truth)
    except OverflowError:
        raise GroundTruthError(f"{where}: `{names['truth']}` is beyond any scale.") from None
    row: dict[str, Any] = {"key": str(key), "truth": points}
    for role in names.keys() - {"key", "truth"}:
        name = names[role]
        row[role] = "" if entry.get(name) is None else str(entry[name])
        if not is_unicode(str(row[role])):
            raise GroundTruthError(f"{where}: `{name}` is no text.")
    return row
