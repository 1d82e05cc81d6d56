"""Numbers of rows of a store's tables, by outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import pyarrow.compute as pc

from jobs.storage.parquet import read_parquet
from jobs.storage.place import READ_THREADS, Place
from schemas.scores import OK


@dataclass
class Counts:
    """Rows of the scores table.

    Attributes:
        ok: rows with a score.
        errors: error type → rows.
        described: rows with a score and texts.
        text_errors: error type → rows with a score whose image could not be read for its texts.
    """

    ok: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    described: int = 0
    text_errors: Counter[str] = field(default_factory=Counter)

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
    outcomes = partial(_outcomes, place)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for ok, errors in pool.map(outcomes, scores):
            counts.ok += ok
            counts.errors.update(errors)
        for ok, errors in pool.map(outcomes, texts):
            counts.described += ok
            counts.text_errors.update(errors)
    return counts


def _outcomes(place: Place, path: str) -> tuple[int, Mapping[str, int]]:
    """Rows that are ok, and error type → rows, of one file."""
    table = read_parquet(place, path, ["status", "error_type"])
    errors = table["error_type"].drop_null().value_counts().to_pylist()
    ok = pc.sum(pc.equal(table["status"], OK)).as_py() or 0
    return ok, {entry["values"]: entry["counts"] for entry in errors}
