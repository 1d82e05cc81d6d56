"""Asymptotic intervals: how much each pair moves a metric, and so how much chance does.

The mean of the squared influences over n is the variance of a metric, with no assumption about the distribution and
with ties as they are (the infinitesimal jackknife). Formulae for the normal distribution, such as Fisher's 1 / (n − 3)
or Bonett and Wright's for SRCC, would be wrong for scores with ties and skewed tails. Correlations have their interval
on Fisher's z, where the distribution is closest to a normal one and which keeps it within ±1.

The variances come from a sample of at most 2^20 pairs, which gives them to about 0.3%; the rank metrics' influences
from a grid of 1024 classes, which adds 0.1%. Both are below what an interval's end is printed to.

Source: Efron, "Nonparametric estimates of standard error", 1981. Fieller, Hartley and Pearson, "Tests for rank
correlation coefficients I", 1957, for Fisher's z of SRCC and KRCC.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from scipy import stats

from jobs.evaluate.metrics.correlation import Extent, Floats, Moments
from jobs.evaluate.metrics.rank_grid import Axis, RankGrid

SAMPLE_PAIRS: Final = 2**20
SAMPLE_CONSTANT: Final = "The pairs that were sampled for the interval do not vary."
_CLASSES: Final = 1024


def influences(scores: Floats, truths: Floats, mapped: Mapping[str, Floats]) -> dict[str, Floats]:
    """How much each pair moves each metric, times n: metric → (n,); metrics that are not defined are left out.

    Args:
        scores: (n,) float64, no NaN.
        truths: (n,) float64, no NaN.
        mapped: metric → (n,) scores after the mapping that this Pearson correlation is of. The mapping's own variation
            does not count: it is where the correlation is at its maximum.
    """
    if Extent.of(scores, truths).rank_problem:
        return {}
    grid = RankGrid(Axis(scores, _CLASSES), Axis(truths, _CLASSES))
    grid.add(scores, truths)
    cells = grid.cells(scores, truths)
    found: dict[str, Floats] = {"srcc": grid.srcc_influence()[cells], "krcc": grid.krcc_influence()[cells]}
    if Extent.of(scores, truths).number_problem:
        return found
    found |= _error_influences(scores, truths)
    for metric, values in {"plcc": scores, **mapped}.items():
        if not Extent.of(values, truths).number_problem:
            found[metric] = _plcc_influence(values, truths)
    return found


def _plcc_influence(x: Floats, y: Floats) -> Floats:
    x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    influence: Floats = x * y - (x * y).mean() / 2 * (x * x + y * y)
    return influence


def _error_influences(scores: Floats, truths: Floats) -> dict[str, Floats]:
    """Of RMSE and MAE after the linear mapping.

    The squared error is at its minimum, so the mapping's variation moves the MAE alone.
    """
    moments = Moments.of(scores, truths)
    errors = moments.line.residuals(scores, truths)
    rmse, mae = np.sqrt((errors * errors).mean()), np.abs(errors).mean()
    relative = errors / rmse if rmse else errors
    signs, away = np.sign(errors), scores - moments.mean_x
    mapping = signs.mean() * errors + (signs * away).mean() * errors * away / (away * away).mean()
    return {"rmse": rmse * (relative * relative - 1) / 2, "mae": np.abs(errors) - mae - mapping}


def asymptotic_intervals(
    values: Mapping[str, float | str], moved: Mapping[str, Floats], n: int, confidence: float
) -> dict[str, tuple[float, float] | str]:
    """Metric → its interval, or a sentence why there is none.

    Args:
        values: metric → value of all pairs, or why there is none.
        moved: metric → (m,) influences of a sample of the pairs.
        n: all pairs.
        confidence: such as 0.95.
    """
    return {
        metric: interval(metric, value, standard_error(moved[metric], n), confidence)
        if metric in moved
        else SAMPLE_CONSTANT
        for metric, value in values.items()
        if not isinstance(value, str)
    }


def standard_error(influence: Floats, n: int) -> float:
    """Of a metric of n pairs, from the influences of a sample of them."""
    return float(np.sqrt((influence * influence).mean() / n))


def interval(metric: str, value: float, error: float, confidence: float) -> tuple[float, float]:
    """Of a metric with this standard error: on Fisher's z for a correlation, else symmetric and not below 0."""
    width = float(stats.norm.ppf((1 + confidence) / 2)) * error
    if metric in ("rmse", "mae"):
        return max(0.0, value - width), value + width
    room = 1 - value * value
    if not room:
        return value, value
    center = np.arctanh(value)
    return float(np.tanh(center - width / room)), float(np.tanh(center + width / room))
