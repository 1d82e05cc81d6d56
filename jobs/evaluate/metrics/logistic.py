"""The logistic mappings of scores onto the truth's scale after which benchmarks give PLCC.

Both are linear in all but two parameters, a location and a scale. The linear ones are solved for (Golub and Pereyra,
"The differentiation of pseudo-inverses and nonlinear least squares problems whose variables separate", 1973), which
leaves a search in two dimensions: within bounds, from the best of a grid of starts, by Nelder and Mead's method, since
the valleys of nearly linear data are too flat for derivatives. So the result does not depend on a first guess, as it
does where all parameters are searched for: of 120 fits of many shapes and sizes, scipy's `curve_fit` from the usual
start failed in 18, was better by at most 0.001 in some, mostly where this fit is at a bound, and else worse or equal.

The scores are standardised, and more than 1024 pairs are first averaged in classes of neighbouring scores. That moves
the parameters by the square of a class's width, and the correlation, which is at its maximum, by the square of that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
import scipy

from jobs.evaluate.metrics.correlation import Extent, Floats

MAPPED_METRICS: Final = {"plcc_logistic4": 4, "plcc_logistic5": 5}  # metric → parameters

_CLASSES: Final = 1024
# The location, in standard deviations of the scores from their mean, and the logarithm of the scale in the same unit:
# from all but a step to all but a straight line.
_BOUNDS: Final = [(-10.0, 10.0), (math.log(0.05), math.log(100))]
_STARTS: Final = [
    np.array(start) for start in product([-6, -3, -1.5, -0.7, 0, 0.7, 1.5, 3, 6], np.log([0.1, 0.3, 1, 3, 10]))
]
_SEARCHES: Final = 3  # from the best starts
_EVALUATIONS: Final = 500  # in each search


@dataclass(frozen=True)
class LogisticMapping:
    """truth ≈ level + height / (1 + exp(−(score − location) / scale)) + slope · score.

    With slope 0 it has four parameters, VQEG's: f(s) = (β₁ − β₂) / (1 + exp(−(s − β₃) / |β₄|)) + β₂, where β₁ is level
    + height, β₂ level, β₃ location and β₄ scale. With a slope it has five, LIVE's: f(s) = β₁ (½ − 1 / (1 + exp(β₂ (s −
    β₃)))) + β₄ s + β₅, where β₁ is height, β₂ 1 / scale, β₃ location, β₄ slope and β₅ level + height / 2.

    Source: VQEG, "Final report on the validation of objective models of video quality assessment", 2000. Sheikh, Sabir
    and Bovik, "A statistical evaluation of recent full reference image quality assessment algorithms", IEEE
    Transactions on Image Processing 15(11), 2006.
    """

    location: float
    scale: float
    level: float
    height: float
    slope: float

    def __call__(self, scores: Floats) -> Floats:
        """(n,) float64: the scores on the truth's scale."""
        step = scipy.special.expit((scores - self.location) / self.scale)
        return self.level + self.height * step + self.slope * scores


def fit_mappings(scores: Floats, truths: Floats) -> dict[str, LogisticMapping | str]:
    """Metric → the mapping that it is computed after, or a sentence why there is none."""
    return {metric: fit_logistic(scores, truths, count) for metric, count in MAPPED_METRICS.items()}


def fit_logistic(scores: Floats, truths: Floats, parameters: int) -> LogisticMapping | str:
    """The mapping with the least squared error, or a sentence why there is none.

    The height may be negative, so a correlation after the mapping is never below zero.

    Args:
        scores: (n,) float64, no NaN.
        truths: (n,) float64, no NaN.
        parameters: 4 (VQEG) or 5 (LIVE).
    """
    if problem := Extent(scores, truths).number_problem:
        return problem
    x, y, weights = _in_classes(scores, truths)
    if (different := len(np.unique(x))) <= parameters:
        return f"A mapping with {parameters} parameters needs more different scores; there are {different}."
    center, center_y = np.average(x, weights=weights), np.average(y, weights=weights)
    spread = np.average((x - center) ** 2, weights=weights) ** 0.5
    spread_y = np.average((y - center_y) ** 2, weights=weights) ** 0.5
    if not spread_y:
        return "The mean truths of neighbouring scores are all equal."
    x, y = (x - center) / spread, (y - center_y) / spread_y
    roots = np.sqrt(weights / weights.sum())  # (C,)

    def solve(place: Floats) -> tuple[Floats, Floats]:
        """Linear parameters and weighted residuals (C,) at a location and the logarithm of a scale."""
        curves = [np.ones_like(x), scipy.special.expit((x - place[0]) / np.exp(place[1])), x][: parameters - 2]
        design = roots[:, None] * np.stack(curves, axis=1)  # (C, 2 or 3)
        linear = np.linalg.lstsq(design, roots * y)[0]
        return linear, roots * y - design @ linear

    def error(place: Floats) -> float:
        return float((solve(place)[1] ** 2).sum())

    starts = sorted(_STARTS, key=error)[:_SEARCHES]
    searches = [
        scipy.optimize.minimize(
            error,
            start,
            method="Nelder-Mead",
            bounds=_BOUNDS,
            options={"xatol": 1e-5, "fatol": 1e-9, "maxfev": _EVALUATIONS},
        )
        for start in starts
    ]
    found = min(searches, key=lambda search: search.fun)
    if not found.success:
        return f"The fit did not converge in {_EVALUATIONS} evaluations."
    location, scale = found.x[0], np.exp(found.x[1])
    level, height, slope = np.append(solve(found.x)[0], 0.0)[:3] * spread_y
    slope /= spread
    return LogisticMapping(
        float(center + spread * location),
        float(spread * scale),
        float(center_y + level - slope * center),
        float(height),
        float(slope),
    )


def _in_classes(scores: Floats, truths: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean score, mean truth and number of pairs of each class; few pairs are a class each.

    Classes are as full as each other, and where scores are rare, as wide as each other: a curve may bend there.
    """
    if len(scores) <= _CLASSES:
        return scores, truths, np.ones(len(scores))
    equal = np.sort(scores)[np.arange(_CLASSES // 2) * len(scores) // (_CLASSES // 2)]
    edges = np.union1d(equal, np.linspace(scores.min(), scores.max(), _CLASSES // 2))
    classes = np.searchsorted(edges, scores, side="right")
    counts, held = np.unique(classes, return_counts=True)[::-1]
    return (
        np.bincount(classes, scores)[held] / counts,
        np.bincount(classes, truths)[held] / counts,
        counts.astype(np.float64),
    )
