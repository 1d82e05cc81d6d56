"""SRCC, PLCC, KRCC and the linear mapping of pairs, and the reasons why one may not be defined.

The values are scipy's. Cases that scipy answers with a warning and NaN are checked first, and give a sentence instead.
Rank metrics accept infinities; metrics computed with sums do not.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LARGEST: Final = 1e100  # squares, and sums of them over any number of pairs, stay finite
_SMALLEST_SPREAD: Final = 1e-12  # of the largest number: below, rounding decides; scipy warns at 1e-13


def complete_rows(*columns: Floats) -> NDArray[np.bool_]:
    """(N,): whether a row has a value in every column.

    Args:
        columns: (N,) each; NaN is null.

    Raises:
        ValueError: the columns differ in length.
    """
    whole = np.ones(len(columns[0]), bool)
    for column in columns:
        if column.shape != whole.shape:
            raise ValueError(f"columns of one length expected, not {[len(column) for column in columns]}")
        whole &= ~np.isnan(column)
    return whole


class Extent:
    """Number of pairs and their smallest and largest values: whether anything can be computed."""

    def __init__(self, scores: Floats, truths: Floats) -> None:
        """Find the ends of (n,) each, no NaN."""
        self.n = len(scores)
        self._ends = {
            name: (float(values.min(initial=np.inf)), float(values.max(initial=-np.inf)))
            for name, values in (("scores", scores), ("ground truth values", truths))
        }

    @property
    def rank_problem(self) -> str | None:
        """Why the pairs have no rank correlation: a sentence, or None."""
        if self.n < 2:
            return "There is only one pair." if self.n else "There are no pairs."
        for name, (low, high) in self._ends.items():
            if low == high:
                return f"All {name} are equal."
        return None

    @property
    def number_problem(self) -> str | None:
        """Why nothing can be computed with the numbers: a sentence, or None."""
        if problem := self.rank_problem:
            return problem
        for name, (low, high) in self._ends.items():
            if (largest := max(-low, high)) > _LARGEST:
                return f"One of the {name} is infinite{'' if np.isinf(largest) else ', or nearly so'}."
            if high - low < max(_SMALLEST_SPREAD * largest, 1 / _LARGEST):
                return f"All {name} are equal but for rounding."
        return None


def srcc(scores: Floats, truths: Floats) -> float:
    """Spearman's correlation; see `Extent.rank_problem`."""
    return float(scipy.stats.spearmanr(scores, truths).statistic)


def krcc(scores: Floats, truths: Floats) -> float:
    """Kendall's tau-b, counted exactly in n log n; see `Extent.rank_problem`."""
    return float(scipy.stats.kendalltau(scores, truths).statistic)


def plcc(scores: Floats, truths: Floats) -> float:
    """Pearson's correlation; see `Extent.number_problem`."""
    return float(scipy.stats.pearsonr(scores, truths).statistic)


class Line(NamedTuple):
    """The linear mapping of scores onto the truth's scale with the least squared error."""

    slope: float
    intercept: float

    def residuals(self, scores: Floats, truths: Floats) -> Floats:
        """(n,): truth minus the mapped score, in units of the truth."""
        return truths - (self.slope * scores + self.intercept)


class Moments:
    """Means and centred second moments of pairs, at least one."""

    def __init__(self, x: Floats, y: Floats) -> None:
        """Compute them from (n,) each, n at least 1."""
        self.mean_x, self.mean_y = float(x.mean()), float(y.mean())
        x, y = x - self.mean_x, y - self.mean_y
        # Not a dot product: BLAS splits that among threads, and its rounding depends on their number.
        self.sum_xx, self.sum_yy, self.sum_xy = (float(product.sum()) for product in (x * x, y * y, x * y))

    @property
    def correlation(self) -> float:
        """Pearson's; NaN where one side does not vary."""
        scale = self.sum_xx**0.5 * self.sum_yy**0.5
        return min(1.0, max(-1.0, self.sum_xy / scale)) if scale else float("nan")

    @property
    def line(self) -> Line:
        """The least-squares line; x must vary."""
        slope = self.sum_xy / self.sum_xx
        return Line(slope, self.mean_y - slope * self.mean_x)
