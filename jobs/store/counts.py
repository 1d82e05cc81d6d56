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


def count_rows(place: Place, tables: Iterable[tuple[str, str | None]]) -> Counts:
    """Count the rows of scores files, each given with the texts file beside it if there is one."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        return sum(pool.map(lambda both: _count(place, *both), tables), Counts())


def _count(place: Place, path: str, beside: str | None) -> Counts:
    rows = read_parquet(place, path, [*_OUTCOME, WARNING.name])
    ok, errors = _outcomes(rows)
    counts = Counts(ok, Counter(errors), warnings=count_warnings(rows[WARNING.name]))
    if beside:
        texts = read_parquet(place, beside, _OUTCOME)
        if len(texts) > ok:  # a run died between the two files
            texts = read_parquet(place, beside, ["image_id", *_OUTCOME])
            texts = with_scores(texts, read_parquet(place, path, ["image_id", "status"]))
        counts.described, found = _outcomes(texts)
        counts.text_errors.update(found)
    return counts


def count_texts(place: Place, texts: Iterable[str]) -> Counts:
    """Count the rows of texts files alone."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        found = [_outcomes(rows) for rows in pool.map(lambda path: read_parquet(place, path, _OUTCOME), texts)]
    return Counts(described=sum(ok for ok, _ in found), text_errors=sum((Counter(one) for _, one in found), Counter()))


def with_scores(texts: pa.Table, scores: pa.Table) -> pa.Table:
    """The rows of a texts file whose image has a score in the file beside it: a run may have died between the two."""
    scored = scores.filter(pc.equal(scores["status"], OK))["image_id"].combine_chunks()
    return texts.filter(pc.is_in(texts["image_id"], scored))


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
