"""Numbers of rows of a store's tables, by outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from jobs.storage.parquet import read_parquet
from jobs.storage.place import READ_THREADS, Place
from schemas.scores import OK, WARNING
from schemas.warnings import split_warnings

_OUTCOME: Final = ["status", "error_type"]


@dataclass
class Counts:
    """Rows of the scores table.

    Attributes:
        ok: rows with a score.
        errors: error type → rows.
        described: rows with a score and texts.
        text_errors: error type → rows with a score whose image could not be read for its texts.
        warnings: warning → rows with it.
    """

    ok: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    described: int = 0
    text_errors: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.ok + other.ok,
            self.errors + other.errors,
            self.described + other.described,
            self.text_errors + other.text_errors,
            self.warnings + other.warnings,
        )

    @property
    def failed(self) -> int:
        """Rows with an error."""
        return sum(self.errors.values())

    @property
    def rows(self) -> int:
        """All rows."""
        return self.ok + self.failed

    @property
    def without_texts(self) -> int:
        """Rows with a score that no run has tried to describe."""
        return self.ok - self.described - sum(self.text_errors.values())


def count_rows(place: Place, scores: Iterable[str], texts: Iterable[str]) -> Counts:
    """Count the rows of these files of the scores and of the texts table."""
    counts = Counts()
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for rows in pool.map(lambda path: read_parquet(place, path, [*_OUTCOME, WARNING.name]), scores):
            ok, errors = _outcomes(rows)
            counts.ok += ok
            counts.errors.update(errors)
            counts.warnings.update(count_warnings(rows[WARNING.name]))
        for rows in pool.map(lambda path: read_parquet(place, path, _OUTCOME), texts):
            ok, errors = _outcomes(rows)
            counts.described += ok
            counts.text_errors.update(errors)
    return counts


def count_warnings(column: pa.ChunkedArray) -> Counter[str]:
    """Warning → rows with it, of the column `warning`."""
    counts: Counter[str] = Counter()
    for text, rows in count_values(column).items():
        counts.update(dict.fromkeys(split_warnings(text), rows))
    return counts


def _outcomes(rows: pa.Table) -> tuple[int, Mapping[str, int]]:
    """Rows that are ok, and error type → rows, of one file."""
    return pc.sum(pc.equal(rows["status"], OK)).as_py() or 0, count_values(rows["error_type"])


def count_values(column: pa.ChunkedArray) -> Counter[str]:
    """Value → rows with it; nulls do not count."""
    return Counter({entry["values"]: entry["counts"] for entry in column.drop_null().value_counts().to_pylist()})
