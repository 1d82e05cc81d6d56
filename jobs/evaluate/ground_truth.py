"""Ground truth: people's ratings of images, from a benchmark's JSON, a Parquet table or a CSV file.

Each row names an image and rates it, on a scale of its own. Nothing is dropped here: a row that names no
image is an error, and one without a number is counted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from artimuse_actor.errors import GroundTruthError, ManifestError, one_line
from jobs.manifest.listing import list_local, list_s3
from jobs.manifest.manifest import Manifest
from jobs.manifest.source import open_tars
from jobs.manifest.tars import is_tar
from jobs.storage.user_files import (
    BATCH_ROWS,
    is_hidden,
    is_unicode,
    limited,
    names_parquet,
    open_parquet,
    open_source,
)

KEY_COLUMNS: Final = ("image_id", "image", "uri", "file_name", "filename", "name", "path")
TRUTH_COLUMN: Final = "gt_score"
_PART_BYTES: Final = 2**24
_FIELDS: Final = (("key", pa.string()), ("truth", pa.float64()), ("group", pa.string()))


@dataclass(frozen=True)
class TruthColumns:
    """Roles of the columns in a table of ground truth.

    Attributes:
        key: names the image; None for the first of `KEY_COLUMNS` that is there.
        truth: the points.
        group: by which the evaluation is split, or None.
    """

    key: str | None = None
    truth: str = TRUTH_COLUMN
    group: str | None = None

    def chosen(self, names: Sequence[str], where: str) -> list[str]:
        """The columns to read: key, truth and, if there is one, group.

        Raises:
            GroundTruthError: a column is not there; the message has the nearest name.
        """
        key = self.key or next((name for name in KEY_COLUMNS if name in names), None)
        if key is None:
            raise GroundTruthError(
                f"{where}: has no column that names the image ({', '.join(KEY_COLUMNS)}; it has "
                f"{', '.join(names[:20]) or 'none'}). Name it with --on."
            )
        wanted = [key, self.truth, *([self.group] if self.group else [])]
        for name, option in zip(wanted, ("--on", "--truth-column", "--by"), strict=False):
            if name not in names:
                near = get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names[:20]) or 'none'}."
                raise GroundTruthError(f"{where}: has no column {name!r}; {hint} Name another one with {option}.")
        return wanted


def read_ground_truth(source: str, columns: TruthColumns) -> Iterator[pa.Table]:
    """A source of ground truth, in batches of the columns `key`, `truth` and `group`.

    Args:
        source: a `.json` list of objects, a `.csv` file, Parquet (a file, folder or glob), or tars of images with
            a JSON object beside each; local or on S3.
        columns: see `TruthColumns`.

    Raises:
        GroundTruthError: it cannot be read, or a row is wrong; the message names the row.
    """
    kind = source.lower()
    try:
        if kind.endswith(".json"):
            yield from _json_tables(source, columns)
        elif kind.endswith((".csv", ".csv.gz")):
            yield from _csv_tables(source, columns)
        elif is_tar(source) and (tars := open_tars(source)):
            yield from tar_truths(tars, columns)
        else:
            yield from _parquet_tables(source, columns)
    except ManifestError as error:  # of the readers that manifests have too
        raise GroundTruthError(str(error)) from error
    except FileNotFoundError:
        raise GroundTruthError(f"{source}: there is no such file.") from None
    except OSError as error:
        raise GroundTruthError(f"{source}: cannot be read: {one_line(str(error))}.") from error


def truth_table(table: pa.Table, columns: TruthColumns, where: str, first_row: int = 0) -> pa.Table:
    """The columns `key`, `truth` (float64) and `group` (string) of any table, checked.

    Raises:
        GroundTruthError: a column is missing or of another type, or a key is null.
    """
    names = columns.chosen(table.column_names, where)
    key, truth, *group = (table[name] for name in names)
    if not (pa.types.is_integer(truth.type) or pa.types.is_floating(truth.type) or pa.types.is_null(truth.type)):
        raise GroundTruthError(f"{where}: `{names[1]}` is of type {truth.type}; it must be a number.")
    try:
        keys = key.cast(pa.string())
    except pa.ArrowInvalid as error:
        raise GroundTruthError(f"{where}: `{names[0]}` cannot be read as text: {one_line(str(error))}.") from error
    except pa.ArrowNotImplementedError:
        raise GroundTruthError(f"{where}: `{names[0]}` is of type {key.type}; it must name the image.") from None
    if keys.null_count:
        row = first_row + pc.index(pc.is_null(keys), True).as_py()
        raise GroundTruthError(f"{where}, row {row}: `{names[0]}` is null. Fix or drop the row.")
    made = {"key": keys, "truth": truth.cast(pa.float64())}
    if group:
        made["group"] = pc.fill_null(group[0].cast(pa.string()), "")
    return pa.table(made)


def _parquet_tables(source: str, columns: TruthColumns) -> Iterator[pa.Table]:
    files = list_s3(source) if source.startswith("s3://") else list_local(source)
    paths = [file.path for file in files.named if names_parquet(file.path) and not is_hidden(file.image_id)]
    if not paths:
        raise GroundTruthError(f"{source}: is neither .json, .csv nor Parquet, and there is no Parquet file in it.")
    for path in paths:
        first_row = 0
        with open_parquet(path) as parquet:
            names = columns.chosen(parquet.schema_arrow.names, path)
            for batch in limited(parquet.iter_batches(BATCH_ROWS, columns=list(dict.fromkeys(names)))):
                yield truth_table(pa.table(batch), columns, path, first_row)
                first_row += batch.num_rows


def tar_truths(tars: Manifest, columns: TruthColumns) -> Iterator[pa.Table]:
    """The ground truth of tars of images: columns of theirs, or fields of the JSON object beside each image.

    Raises:
        GroundTruthError: no image has the field.
        ManifestError: a tar cannot be read.
    """
    wanted = dict.fromkeys([name for name in (columns.key, columns.truth, columns.group) if name])
    # `gt_score` is a column of every manifest, and in tars it is empty.
    own = [name for name in wanted if name in tars.columns().names and name != TRUTH_COLUMN]
    has_json = "json" in tars.columns().names
    known: dict[str, None] = {}
    rated = False
    for batch in tars.batches([*own, *(["json"] if has_json else [])]):
        assert batch.own is not None
        objects = [_object(text) for text in batch.own["json"].to_pylist()] if has_json else [{}] * len(batch.rows)
        known |= dict.fromkeys(name for one in objects[:1000] for name in one)
        found = {
            name: batch.own[name].to_pylist() if name in own else [one.get(name) for one in objects] for name in wanted
        }
        keys = found[columns.key] if columns.key else batch.rows["image_id"].to_pylist()
        truths = [_points(value) for value in found[columns.truth]]
        rated = rated or any(value is not None for value in truths)
        made = {"key": pa.array(map(str, keys), pa.string()), "truth": pa.array(truths, pa.float64())}
        if columns.group:
            groups = ["" if value is None else str(value) for value in found[columns.group]]
            made["group"] = pa.array(groups, pa.string())
        yield pa.table(made)
    if not rated:
        raise GroundTruthError(
            f"{tars.source}: no image has a number {columns.truth!r} beside it (its JSON has "
            f"{', '.join(list(known)[:20]) or 'no fields'}). Name another field with --truth-column, or the ground "
            "truth with --ground-truth."
        )


def _object(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _points(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _csv_tables(source: str, columns: TruthColumns) -> Iterator[pa.Table]:
    try:
        with _csv_reader(source) as reader:
            names = columns.chosen(reader.schema.names, source)
        # A key of digits is still a name: 007 is not 7.
        types = {name: pa.string() for name in (names[0], *names[2:])} | {names[1]: pa.float64()}
        first_row = 0
        with _csv_reader(source, types) as reader:
            for batch in reader:
                yield truth_table(pa.table(batch), columns, source, first_row)
                first_row += batch.num_rows
    except pa.ArrowInvalid as error:
        raise GroundTruthError(f"{source}: cannot be read as CSV: {one_line(str(error))}.") from error


def _csv_reader(source: str, types: dict[str, pa.DataType] | None = None) -> Any:
    # In one thread, so that an error says the row.
    return csv.open_csv(
        _read_object(source) if source.startswith("s3://") else os.path.expanduser(source),
        read_options=csv.ReadOptions(use_threads=False),
        convert_options=csv.ConvertOptions(
            column_types=types or {}, include_columns=list(types or ()), strings_can_be_null=False
        ),
    )


def _read_object(source: str) -> pa.BufferReader:
    """The bytes of an object, in memory of pyarrow's own: see `jobs.storage.parquet.parquet_file`."""
    sink = pa.BufferOutputStream()
    with open_source(source) as file:
        while data := file.read(_PART_BYTES):
            sink.write(data)
    return pa.BufferReader(sink.getvalue())


def _json_tables(source: str, columns: TruthColumns) -> Iterator[pa.Table]:
    try:
        with open_source(source) as file:
            entries = json.load(file)
    except (ValueError, RecursionError) as error:
        raise GroundTruthError(f"{source}: is not valid JSON: {one_line(str(error))}.") from error
    if not isinstance(entries, list):
        raise GroundTruthError(f'{source}: is not a list of objects such as {{"image": …, "gt_score": …}}.')
    known = dict.fromkeys(name for entry in entries[:1000] if isinstance(entry, dict) for name in entry)
    names = columns.chosen(list(known), source) if entries else []
    for start in range(0, len(entries), BATCH_ROWS):
        batch = enumerate(entries[start : start + BATCH_ROWS], start)
        rows = [_json_row(entry, names, f"{source}, entry {number}") for number, entry in batch]
        yield pa.Table.from_pylist(rows, schema=pa.schema(_FIELDS[: len(names)]))


def _json_row(entry: Any, names: Sequence[str], where: str) -> dict[str, Any]:
    """Key, truth and perhaps group of one object."""
    if not isinstance(entry, dict):
        raise GroundTruthError(f"{where}: is no object.")
    key, truth = entry.get(names[0]), entry.get(names[1])
    if not isinstance(key, str | int) or isinstance(key, bool) or not is_unicode(str(key)):
        raise GroundTruthError(f"{where}: has no `{names[0]}` that names an image.")
    if truth is not None and (isinstance(truth, bool) or not isinstance(truth, int | float)):
        raise GroundTruthError(f"{where}: `{names[1]}` is {truth!r}, not a number.")
    try:
        points = None if truth is None else float(truth)
    except OverflowError:
        raise GroundTruthError(f"{where}: `{names[1]}` is beyond any scale.") from None
    row = {"key": str(key), "truth": points}
    for name in names[2:]:
        row["group"] = "" if entry.get(name) is None else str(entry[name])
        if not is_unicode(str(row["group"])):
            raise GroundTruthError(f"{where}: `{name}` is no text.")
    return row
