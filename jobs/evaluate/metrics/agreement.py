"""Scores and ground truth → SRCC, PLCC, KRCC, RMSE, MAE, accuracy; and the difference between two sets of scores.

Every value is exact, whatever the number of pairs. Intervals of correlations are jackknifed with up to 200 independent
units (pairs, or clusters of them), bootstrapped with more, above 100,000 pairs from subsamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from jobs.evaluate.metrics.accuracy import accuracy, base_rate, correct_directly, correct_through_line
from jobs.evaluate.metrics.bootstrap import Drawable, Resampling, resampling
from jobs.evaluate.metrics.correlation import Extent, Floats, Line, Moments, complete_rows, krcc, plcc, srcc
from jobs.evaluate.metrics.estimate import DIFFERENCES, JACKKNIFE, Agreement, Difference, MetricDifference, estimate
from jobs.evaluate.metrics.intervals import Resamples
from jobs.evaluate.metrics.jackknife import MOST_BLOCKS, error_intervals
from jobs.evaluate.metrics.logistic import LogisticMapping, fit_mappings
from jobs.evaluate.metrics.units import Units

Clusters = NDArray[np.int64]


def measure_agreement(
    scores: Floats,
    truths: Floats,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
    resamples: int = 1000,
    confidence: float = 0.95,
    truth_threshold: float | None = None,
    score_threshold: float | None = None,
) -> Agreement:
    """Measure the agreement of scores with ground truth.

    Args:
        scores: (N,) float64; NaN is null, infinities have a rank.
        truths: (N,) float64, the same.
        clusters: (N,) numbers, equal for pairs that share their content; None if all pairs are independent.
        seed: the same pairs in the same order and the same seed give the same bytes, on as many threads.
        resamples: of the bootstrap.
        confidence: of every interval.
        truth_threshold: above it is "good" on the truth's scale, for binary accuracy.
        score_threshold: above it is "good" on the scores' own scale, for the accuracy without a mapping.

    Raises:
        ValueError: the columns differ in length, or there is a threshold for the scores alone.
    """
    if truth_threshold is None and score_threshold is not None:
        raise ValueError("A threshold for the scores needs one for the truth.")
    whole = complete_rows(scores, truths)
    units = _units(whole, clusters)
    scores, truths = (np.asarray(column[whole], np.float64) for column in (scores, truths))
    fits = fit_mappings(scores, truths)
    mapped = {metric: fit(scores) for metric, fit in fits.items() if isinstance(fit, LogisticMapping)}
    problem = Extent(scores, truths).number_problem
    line = None if problem else Moments(scores, truths).line
    values = _correlations(scores, truths)
    for metric, fit in fits.items():
        values[metric] = fit if isinstance(fit, str) else _plcc(mapped[metric], truths)
    plan = resampling(units)
    drawn = Resamples([Drawable(scores, truths, mapped)], plan, seed, resamples)
    intervals = {
        metric: drawn.interval(metric, value, truths, confidence)
        for metric, value in values.items()
        if not isinstance(value, str)
    }
    values |= _errors(scores, truths, line or str(problem))
    if line:
        intervals |= error_intervals(scores, truths, line, units, seed, confidence)
    through, direct = None, None
    if truth_threshold is not None:
        through = accuracy(correct_through_line(scores, truths, truth_threshold, line), units, seed, confidence)
        if score_threshold is not None:
            correct = correct_directly(scores, truths, truth_threshold, score_threshold)
            direct = accuracy(correct, units, seed, confidence)
    return Agreement(
        n=units.pairs,
        dropped=len(whole) - units.pairs,
        **{metric: estimate(value, intervals.get(metric)) for metric, value in values.items()},
        slope=line and line.slope,
        intercept=line and line.intercept,
        accuracy=through,
        accuracy_direct=direct,
        base_rate=None if truth_threshold is None else base_rate(truths, truth_threshold),
        interval=plan.interval,
        confidence=confidence,
        seed=seed,
        resamples=_resamples(plan, resamples),
        clusters=units.count if units.clustered else None,
        resample_units=plan.drawn,
    )


def measure_differences(
    scores: Sequence[Floats],
    truths: Floats,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> dict[tuple[int, int], Difference]:
    """Measure the differences in agreement of each two of several sets of scores, paired on the rows that all have.

    Every resample draws the same rows for all, so their common noise cancels out. All values are exact, whatever the
    number of pairs.

    Args:
        scores: (N,) float64 each; NaN is null, infinities have a rank.
        truths: (N,) float64, the same.
        clusters: (N,) numbers, equal for pairs that share their content; None if all pairs are independent.
        seed: the same pairs in the same order and the same seed give the same bytes, on as many threads.
        resamples: of the bootstrap.
        confidence: of every interval.

    Returns:
        Numbers of two sets, the lower first → the first's metrics minus the second's.

    Raises:
        ValueError: the columns differ in length.
    """
    whole = complete_rows(*scores, truths)
    units = _units(whole, clusters)
    sets = [np.asarray(column[whole], np.float64) for column in scores]
    truths = np.asarray(truths[whole], np.float64)
    found = [_correlations(column, truths) for column in sets]
    plan = resampling(units)
    drawn = Resamples([Drawable(column, truths, {}) for column in sets], plan, seed, resamples)

    def difference(a: int, b: int, metric: str) -> MetricDifference:
        first, second = found[a][metric], found[b][metric]
        if isinstance(first, str) or isinstance(second, str):
            numbers = [None if isinstance(value, str) else value for value in (first, second)]
            reason = first if isinstance(first, str) else str(second)
            return MetricDifference(None, reason=reason, first=numbers[0], second=numbers[1])
        return drawn.difference(metric, (first, second), (a, b), confidence)

    return {
        (a, b): Difference(
            n=units.pairs,
            dropped=len(whole) - units.pairs,
            **{metric: difference(a, b, metric) for metric in DIFFERENCES},
            interval=plan.interval,
            confidence=confidence,
            seed=seed,
            resamples=_resamples(plan, resamples),
            clusters=units.count if units.clustered else None,
            resample_units=plan.drawn,
        )
        for a, b in combinations(range(len(sets)), 2)
    }


def _units(whole: NDArray[np.bool_], clusters: Clusters | None) -> Units:
    if clusters is not None and clusters.shape != whole.shape:
        raise ValueError(f"a cluster for each of {len(whole)} pairs expected, not {len(clusters)}")
    return Units(int(whole.sum()), None if clusters is None else clusters[whole])


def _resamples(plan: Resampling, asked: int) -> int:
    return min(plan.units.count, MOST_BLOCKS) if plan.interval == JACKKNIFE else asked


def _correlations(scores: Floats, truths: Floats) -> dict[str, float | str]:
    """Metric → its value, or a sentence that says why it has none."""
    problem = Extent(scores, truths).rank_problem
    return {
        "srcc": problem or srcc(scores, truths),
        "plcc": _plcc(scores, truths),
        "krcc": problem or krcc(scores, truths),
    }


def _plcc(scores: Floats, truths: Floats) -> float | str:
    return Extent(scores, truths).number_problem or plcc(scores, truths)


def _errors(scores: Floats, truths: Floats, line: Line | str) -> dict[str, float | str]:
    """RMSE and MAE after the linear mapping, or the sentence why there is none."""
    if isinstance(line, str):
        return {"rmse": line, "mae": line}
    errors = line.residuals(scores, truths)
    return {"rmse": float(np.sqrt((errors * errors).mean())), "mae": float(np.abs(errors).mean())}
