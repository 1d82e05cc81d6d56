"""Jackknife intervals: a metric without each unit in turn tells its bias and its standard error.

They hold where a percentile bootstrap does not: with few pairs, with few clusters, and for the errors of a fitted line,
since a resample repeats pairs, and a line fits a pair that it sees twice better than a new one. Correlations are taken
on the scale of Fisher's z, errors as logarithms; on these scales the metrics of samples are nearly normal, and the ends
are within what is possible. `bench/tables/coverage.py` counts how often intervals hold the truth.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 11. Busing, Meijer and van der Leeden,
"Delete-m jackknife for unequal m", Statistics and Computing 9, 1999, for units of different size.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import scipy

from jobs.evaluate.metrics.correlation import Floats, Line
from jobs.evaluate.metrics.units import Rows, Units

FEWEST_UNITS: Final = 5
MOST_BLOCKS: Final = 200
"""More units are left out in so many lots."""

_NO_ERROR: Final = 1e-9  # of the spread of the truths: errors below are rounding


class Jackknife(NamedTuple):
    """A metric's distribution, as Student's t.

    Attributes:
        centre: the metric less its bias.
        error: its standard error.
        freedom: degrees of freedom.
    """

    centre: float
    error: float
    freedom: int

    def interval(self, confidence: float) -> tuple[float, float]:
        """The interval of this confidence."""
        reach = float(scipy.stats.t.ppf((1 + confidence) / 2, self.freedom)) * self.error
        return self.centre - reach, self.centre + reach

    def p_value(self) -> float:
        """Two-sided, of a metric that is 0."""
        if not self.error:
            return 0.0 if self.centre else 1.0
        return float(2 * scipy.stats.t.sf(abs(self.centre) / self.error, self.freedom))


def jackknife(value: float, without: Floats, sizes: Floats) -> Jackknife:
    """A metric's distribution from its values without each of K blocks.

    Args:
        value: of all pairs.
        without: (K,) values without each block.
        sizes: (K,) pairs of each block.
    """
    shares = sizes / sizes.sum()
    centre = len(without) * value - float(((1 - shares) * without).sum())
    pseudo = value / shares - (1 / shares - 1) * without
    variance = float(((pseudo - centre) ** 2 / (1 / shares - 1)).mean())
    # Two: a line, or the means of both sides, are fitted.
    return Jackknife(centre, variance**0.5, len(without) - 2)


def too_few(units: Units) -> str | None:
    """Why so few units have no interval: a sentence, or None."""
    if units.count >= FEWEST_UNITS:
        return None
    return f"An interval needs {FEWEST_UNITS} {units.noun} or more; there are {units.count}."


def error_intervals(
    scores: Floats, truths: Floats, line: Line, units: Units, seed: int, confidence: float
) -> dict[str, tuple[float, float] | str]:
    """The intervals of RMSE and MAE after the linear mapping, or a sentence why there is none.

    Args:
        scores: (n,) float64, of different values.
        truths: (n,) float64.
        line: the mapping of all pairs.
        units: what is left out.
        seed: of the lots of many units.
        confidence: such as 0.95.
    """
    if problem := too_few(units):
        return dict.fromkeys(("rmse", "mae"), problem)
    blocks = list(units.blocks(MOST_BLOCKS, seed))
    found = _errors_without(scores, truths, blocks)
    sizes = np.array([len(block) for block in blocks], np.float64)
    residuals = line.residuals(scores, truths)
    values = {"rmse": float(np.sqrt((residuals * residuals).mean())), "mae": float(np.abs(residuals).mean())}
    least = _NO_ERROR * float(truths.std())
    intervals: dict[str, tuple[float, float] | str] = {}
    for metric, value in values.items():
        without = found[metric]
        if not (value > least and (without > least).all()):  # NaN where all scores left are equal
            intervals[metric] = (
                f"Without one of the {units.noun} there is no line, or it has no error: too few {units.noun}."
            )
            continue
        low, high = np.exp(jackknife(np.log(value), np.log(without), sizes).interval(confidence)).tolist()
        intervals[metric] = min(low, value), max(high, value)
    return intervals


def _errors_without(scores: Floats, truths: Floats, blocks: list[Rows]) -> dict[str, Floats]:
    """RMSE and MAE without each of K blocks, (K,) each, its own line fitted; NaN where there is none."""
    order = np.concatenate(blocks)
    ends = np.cumsum([len(block) for block in blocks])
    # Centred, so that sums of squares keep their digits.
    x, y = scores[order] - scores.mean(), truths[order] - truths.mean()
    whole = np.stack([x, y, x * x, x * y])  # (4, n)
    parts = np.add.reduceat(whole, np.concatenate([[0], ends[:-1]]), axis=1)  # (4, K)
    left = whole.sum(axis=1)[:, None] - parts
    found = {metric: np.full(len(blocks), np.nan) for metric in ("rmse", "mae")}
    for number, (end, block) in enumerate(zip(ends, blocks, strict=True)):
        n, start = len(x) - len(block), end - len(block)
        mean_x, mean_y = left[:2, number] / n
        spread = left[2, number] / n - mean_x**2
        if spread <= 1e-12 * whole[2].max():
            continue
        slope = (left[3, number] / n - mean_x * mean_y) / spread
        errors = (y - mean_y) - slope * (x - mean_x)
        kept = np.concatenate([errors[:start], errors[end:]])
        found["rmse"][number] = np.sqrt((kept * kept).mean())
        found["mae"][number] = np.abs(kept).mean()
    return found
