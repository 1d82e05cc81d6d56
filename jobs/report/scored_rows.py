"""All rows of a scores table as a few numbers each, which a report counts, ranks and compares.

A row goes by its number: its place in the files of the stores, one after the other. Strings stay in the files but for
the hashes, of which 64 bits are kept: some 30 bytes of memory a row in all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.curate.equal_hashes import NO_CODE, hash_codes
from jobs.storage.parquet import read_parquet
from jobs.storage.place import READ_THREADS, Place
from jobs.store.counts import count_values
from jobs.store.store import Store
from schemas.scores import OK
from schemas.warnings import split_warnings

EXAMPLES: Final = 5
_COMMON: Final = ["status", "error_type", "retryable", "scored_at", "format", "sha256", "phash", "warning"]

OWN_GROUPS: Final = ("folder", "format", "run_id")
"""Groupings that need no ground truth: columns of the scores table, and the first folder of `image_id`."""


@dataclass(frozen=True)
class Failures:
    """Rows without a score, of one type.

    Attributes:
        rows: how many.
        retryable: of these, rows that may succeed later.
        examples: numbers of the first few.
    """

    rows: int
    retryable: int
    examples: tuple[int, ...]


@dataclass(frozen=True)
class Warned:
    """Rows with a warning.

    Attributes:
        rows: how many.
        examples: numbers of the first few.
    """

    rows: int
    examples: tuple[int, ...]


@dataclass(frozen=True)
class ScoredRows:
    """The rows of one or several stores, N of them.

    Attributes:
        files: each scores file, and the number of its store.
        starts: (files + 1,) int64: the number of the first row of each, and N.
        scores: question → (N,) float32, NaN without a score.
        spread: (N,) float32: standard deviation of the first question's level.
        same_bytes: (N,) uint64, equal where the bytes are; `NO_CODE` without.
        looks: (N,) uint64, the perceptual hash; `NO_CODE` without.
        groups: (N,) int32 numbers into `group_names`, or None.
        group_names: values of the column that splits the rows.
        failures: error type → its rows.
        warnings: warning → its rows.
        formats: format of the file → rows.
        first: when the first row was scored; None without rows.
        last: when the last was.
    """

    files: list[tuple[int, str]]
    starts: NDArray[np.int64]
    scores: dict[str, NDArray[np.float32]]
    spread: NDArray[np.float32]
    same_bytes: NDArray[np.uint64]
    looks: NDArray[np.uint64]
    groups: NDArray[np.int32] | None
    group_names: list[str]
    failures: dict[str, Failures]
    warnings: dict[str, Warned]
    formats: Counter[str]
    first: datetime | None
    last: datetime | None

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def failed(self) -> int:
        """Rows without a score."""
        return sum(failures.rows for failures in self.failures.values())

    def rows_of(self, store: int) -> slice:
        """The rows of a store, by its number."""
        ends = np.searchsorted([number for number, _ in self.files], [store, store + 1])
        first, last = self.starts[ends]
        return slice(int(first), int(last))

    def count_of(self, store: int) -> int:
        """How many rows a store has, by its number."""
        rows = self.rows_of(store)
        return int(rows.stop - rows.start)

    def places(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """The numbers of the files that hold these rows, each with the rows' places in it."""
        rows = np.unique(rows)
        files = np.searchsorted(self.starts, rows, side="right") - 1
        for file in np.unique(files):
            yield int(file), rows[files == file] - self.starts[file]


def scan_rows(stores: Sequence[Store], question: str, group_by: str | None = None) -> ScoredRows:
    """Read the numbers of all rows, file by file.

    Args:
        stores: whose rows; all have the same questions.
        question: the score whose spread is kept.
        group_by: one of `OWN_GROUPS` that splits the rows.

    Raises:
        StoreError: a file is not whole.
    """
    questions = stores[0].questions
    files = [(number, path) for number, store in enumerate(stores) for path in store.table_files().scores_paths]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        parts = list(pool.map(lambda one: _read(stores[one[0]].place, questions, question, group_by, one[1]), files))
    starts = np.cumsum([0, *(part["rows"] for part in parts)], dtype=np.int64)

    def joined(name: str, kind: Any) -> NDArray[Any]:
        return np.concatenate([np.empty(0, dtype=kind), *(part.pop(name) for part in parts)])

    failures: dict[str, list[Any]] = defaultdict(lambda: [0, 0, []])
    warned: dict[str, list[Any]] = defaultdict(lambda: [0, []])
    formats: Counter[str] = Counter()
    for part, start in zip(parts, starts, strict=False):
        formats.update(part["formats"])
        for kind, (rows, retryable, examples) in part["failures"].items():
            about = failures[kind]
            about[0] += rows
            about[1] += retryable
            about[2] += [int(start) + place for place in examples[: EXAMPLES - len(about[2])]]
        for name, (rows, examples) in part["warnings"].items():
            warned[name][0] += rows
            warned[name][1] += [int(start) + place for place in examples[: EXAMPLES - len(warned[name][1])]]
    names: dict[str, int] = {}
    for part in parts if group_by else ():
        numbers = [names.setdefault(name, len(names)) for name in part["group_names"]]
        part["groups"] = np.asarray(numbers, dtype=np.int32)[part["groups"]]
    return ScoredRows(
        files=files,
        starts=starts,
        scores={name: joined(name, np.float32) for name in questions},
        spread=joined("spread", np.float32),
        same_bytes=joined("same_bytes", np.uint64),
        looks=joined("looks", np.uint64),
        groups=joined("groups", np.int32) if group_by else None,
        group_names=list(names),
        failures={kind: Failures(rows, later, tuple(few)) for kind, (rows, later, few) in failures.items()},
        warnings={name: Warned(rows, tuple(few)) for name, (rows, few) in warned.items()},
        formats=formats,
        first=min((part["first"] for part in parts if part["first"]), default=None),
        last=max((part["last"] for part in parts if part["last"]), default=None),
    )


def _read(place: Place, questions: tuple[str, ...], question: str, group_by: str | None, path: str) -> dict[str, Any]:
    """The numbers of one file."""
    group_columns = {None: [], "folder": ["image_id"]}.get(group_by, [group_by])
    wanted = dict.fromkeys([*_COMMON, *questions, f"{question}_std", *group_columns])
    table = read_parquet(place, path, list(wanted))
    ok = np.asarray(pc.equal(table["status"], OK))
    about: dict[str, Any] = {"rows": len(table), "failures": _failures(table, np.flatnonzero(~ok))}
    for name, column in {**{name: name for name in questions}, "spread": f"{question}_std"}.items():
        points = table[column].to_numpy().astype(np.float32)
        about[name] = np.where(ok, points, np.float32(np.nan))
    for name, (column, digits) in {"same_bytes": ("sha256", 64), "looks": ("phash", 16)}.items():
        about[name] = np.where(ok, hash_codes(table[column], digits), NO_CODE)
    about["warnings"] = _warned(table["warning"])
    about["formats"] = count_values(table["format"])
    ends = pc.min_max(table["scored_at"])
    about |= {"first": ends["min"].as_py(), "last": ends["max"].as_py()}
    if group_by:
        column = _first_folders(table["image_id"]) if group_by == "folder" else table[group_by]
        values = pc.fill_null(column, "").combine_chunks().dictionary_encode()
        about |= {"groups": np.asarray(values.indices), "group_names": values.dictionary.to_pylist()}
    return about


def _failures(table: pa.Table, places: NDArray[np.int64]) -> dict[str, tuple[int, int, list[int]]]:
    """Error type → rows, of these the ones to try again, and the places of the first few."""
    failed = table.select(["error_type", "retryable"]).take(pa.array(places))
    kinds = pc.fill_null(failed["error_type"], "unknown").combine_chunks().dictionary_encode()
    codes, later = np.asarray(kinds.indices), np.asarray(pc.fill_null(failed["retryable"], False))
    found = {}
    for code, kind in enumerate(kinds.dictionary.to_pylist()):
        same = codes == code
        found[kind] = (int(same.sum()), int(later[same].sum()), places[same][:EXAMPLES].tolist())
    return found


def _warned(column: pa.ChunkedArray) -> dict[str, tuple[int, list[int]]]:
    """Warning → rows with it, and the places of the first few."""
    found: dict[str, list[Any]] = defaultdict(lambda: [0, []])
    texts = column.combine_chunks().dictionary_encode()
    codes = np.asarray(pc.fill_null(texts.indices, -1))
    for code, text in enumerate(texts.dictionary.to_pylist()):
        places = np.flatnonzero(codes == code)
        for name in split_warnings(text):
            found[name][0] += len(places)
            found[name][1] += places[:EXAMPLES].tolist()
    return {name: (rows, sorted(places)[:EXAMPLES]) for name, (rows, places) in found.items()}


def _first_folders(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.struct_field(pc.extract_regex(ids, r"^(?P<folder>[^/]+)/"), 0)
