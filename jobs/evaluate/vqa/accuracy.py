"""Accuracies of replies, with intervals, by groups, and two sets of replies compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import scipy
from numpy.typing import NDArray

from jobs.evaluate.metrics.accuracy import accuracy
from jobs.evaluate.metrics.estimate import Estimate
from jobs.evaluate.metrics.units import Units

CONFIDENCE: Final = 0.95
CHOICES: Final[Mapping[str, str]] = {
    "choice": "published parser",
    "choice_lenient": "lenient parser",
    "choice_likeliest": "likeliest letter",
}
"""Column of the answers table → what it is called."""


@dataclass(frozen=True)
class Accuracies:
    """The accuracy of some replies, by how their letter is found; a question without a reply counts as wrong.

    Attributes:
        rows: number of questions.
        images: number of different images.
        right: column of `CHOICES` → number of right answers.
        estimates: column of `CHOICES` → accuracy, 0 to 1.
    """

    rows: int
    images: int
    right: Mapping[str, int]
    estimates: Mapping[str, Estimate]

    @property
    def published(self) -> Estimate:
        """The accuracy by the published parser."""
        return self.estimates["choice"]


@dataclass(frozen=True)
class PairedComparison:
    """Two sets of replies to the same questions, by the published parser.

    Attributes:
        other: label of the set that is compared with.
        both: questions that both have right.
        only_first: questions that only the first has right.
        only_other: questions that only the other has right.
        neither: all others.
        p_value: of McNemar's exact test: that chance alone makes the two numbers as different; None if both are 0.
    """

    other: str
    both: int
    only_first: int
    only_other: int
    neither: int
    p_value: float | None


def measure(table: pa.Table, seed: int) -> Accuracies:
    """The accuracies of the rows of an answers table.

    Wilson's intervals. Where images have several questions, which a model gets right or wrong together, they count for
    as many questions as they are worth, see `jobs.evaluate.metrics.accuracy`.
    """
    images = np.unique(np.array(table["image_id"].to_pylist(), dtype=object), return_inverse=True)[1]
    count = len(np.unique(images))
    units = Units(len(table), images.astype(np.int64) if count < len(table) else None)
    right = {column: _is_right(table, column) for column in CHOICES}
    return Accuracies(
        len(table),
        count,
        {column: int(found.sum()) for column, found in right.items()},
        {column: accuracy(found, units, seed, CONFIDENCE) for column, found in right.items()},
    )


def by_groups(table: pa.Table, field: str, seed: int) -> dict[str, Accuracies]:
    """Value of a field of the entries → the accuracies of its questions, in the order in which they come."""
    values = [_value(json.loads(fields).get(field)) for fields in table["fields"].to_pylist()]
    numbers = {name: [row for row, value in enumerate(values) if value == name] for name in dict.fromkeys(values)}
    return {name: measure(table.take(pa.array(rows, pa.int64())), seed) for name, rows in numbers.items()}


def base_rate(table: pa.Table) -> float:
    """The accuracy of always giving the commonest letter."""
    counts = np.unique(np.array(table["answer"].to_pylist()), return_counts=True)[1]
    return float(counts.max() / counts.sum())


def compare(first: pa.Table, other: pa.Table, label: str) -> PairedComparison:
    """McNemar's exact test of two answers tables of the same questions."""
    ours, theirs = (np.array(table["is_right"].to_pylist(), dtype=bool) for table in (first, other))
    only_first, only_other = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    p_value = None
    if only_first + only_other:
        p_value = float(scipy.stats.binomtest(only_first, only_first + only_other).pvalue)
    return PairedComparison(
        label, int((ours & theirs).sum()), only_first, only_other, int((~ours & ~theirs).sum()), p_value
    )


def _is_right(table: pa.Table, column: str) -> NDArray[np.bool_]:
    pairs = zip(table[column].to_pylist(), table["answer"].to_pylist(), strict=True)
    return np.array([choice == answer for choice, answer in pairs], dtype=bool)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else "(none)" if value is None else json.dumps(value, ensure_ascii=False)
