"""Scores and ground truth → SRCC, PLCC, KRCC, RMSE, MAE, accuracy; and the difference between two sets of scores.

Up to 100,000 pairs intervals are bootstrapped, above they are asymptotic. Up to 50,000,000 pairs every value is exact;
above, SRCC and KRCC are computed on a grid and say how far they may be off.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from jobs.evaluate.metrics.accuracy import Thresholds, accuracy
from jobs.evaluate.metrics.asymptotic import (
    SAMPLE_CONSTANT,
    SAMPLE_PAIRS,
    asymptotic_intervals,
    influences,
    standard_error,
)
from jobs.evaluate.metrics.bootstrap import Drawable, percentiles, resample, two_sided_p
from jobs.evaluate.metrics.correlation import Extent, Floats, Line, Moments, krcc, plcc, srcc, without_nulls
from jobs.evaluate.metrics.estimate import ASYMPTOTIC, BOOTSTRAP, Agreement, Difference, MetricDifference, estimate
from jobs.evaluate.metrics.logistic import LogisticMapping, fit_mappings
from jobs.evaluate.metrics.two_passes import Survey, Tally

BOOTSTRAP_PAIRS: Final = 100_000
EXACT_PAIRS: Final = 50_000_000
_PART_PAIRS: Final = 2**20


def measure_agreement(
    scores: Floats,
    truths: Floats,
    *,
    seed: int = 0,
    resamples: int = 1000,
    confidence: float = 0.95,
    truth_threshold: float | None = None,
    score_threshold: float | None = None,
) -> Agreement:
    """How well scores agree with ground truth.

    Args:
        scores: (N,) float64; NaN is null, infinities have a rank.
        truths: (N,) float64, the same.
        seed: the same pairs in the same order and the same seed give the same bytes, on as many threads.
        resamples: of the bootstrap.
        confidence: of every interval.
        truth_threshold: where "good" begins on the truth's scale, for binary accuracy.
        score_threshold: where it begins on the scores' scale; None to map them onto the truth's scale.

    Raises:
        ValueError: the columns differ in length, or there is a threshold for the scores alone.
    """
    if truth_threshold is None and score_threshold is not None:
        raise ValueError("A threshold for the scores needs one for the truth.")
    thresholds = None if truth_threshold is None else Thresholds(truth_threshold, score_threshold)
    (scores, truths), dropped = without_nulls(scores, truths)
    n = len(scores)
    if n > EXACT_PAIRS:
        return _measure_in_parts(scores, truths, dropped, seed, confidence, thresholds)
    fits = fit_mappings(scores, truths)
    mapped = {metric: fit(scores) for metric, fit in fits.items() if isinstance(fit, LogisticMapping)}
    problem = Extent.of(scores, truths).number_problem
    line = None if problem else Moments.of(scores, truths).line
    values = _correlations(scores, truths) | _errors(scores, truths, line or str(problem))
    for metric, fit in fits.items():
        values[metric] = fit if isinstance(fit, str) else _plcc(mapped[metric], truths)
    bootstrapped = n <= BOOTSTRAP_PAIRS
    if bootstrapped:
        [resampled] = resample([Drawable(scores, truths, mapped)], n, seed, resamples)
        intervals = {metric: percentiles(found, confidence) for metric, found in resampled.items()}
    else:
        drawn = _sample(n, seed)
        moved = influences(scores[drawn], truths[drawn], {metric: column[drawn] for metric, column in mapped.items()})
        intervals = asymptotic_intervals(values, moved, n, confidence)
    correct = thresholds.count_correct(scores, truths, line) if thresholds else None
    return Agreement(
        n=n,
        dropped=dropped,
        **{metric: estimate(value, intervals.get(metric)) for metric, value in values.items()},
        slope=line and line.slope,
        intercept=line and line.intercept,
        accuracy=accuracy(correct, n, confidence) if thresholds else None,
        interval=BOOTSTRAP if bootstrapped else ASYMPTOTIC,
        confidence=confidence,
        seed=seed,
        resamples=resamples if bootstrapped else 0,
        rank_error=0.0,
    )


def measure_difference(
    scores_a: Floats,
    scores_b: Floats,
    truths: Floats,
    *,
    seed: int = 0,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> Difference:
    """How the agreement of one set of scores differs from that of another, pair by pair on the same rows.

    Every resample draws the same rows for both, so what they have in common cancels out. All values are exact, whatever
    the number of pairs.

    Args:
        scores_a: (N,) float64; NaN is null, infinities have a rank.
        scores_b: (N,) float64, the same.
        truths: (N,) float64, the same.
        seed: the same pairs in the same order and the same seed give the same bytes, on as many threads.
        resamples: of the bootstrap.
        confidence: of every interval.

    Raises:
        ValueError: the columns differ in length.
    """
    (scores_a, scores_b, truths), dropped = without_nulls(scores_a, scores_b, truths)
    n = len(truths)
    found_a, found_b = _correlations(scores_a, truths), _correlations(scores_b, truths)
    bootstrapped = n <= BOOTSTRAP_PAIRS
    if bootstrapped:
        pairs = [Drawable(scores_a, truths, {}), Drawable(scores_b, truths, {})]
        drawn_a, drawn_b = resample(pairs, n, seed, resamples)
    else:
        drawn = _sample(n, seed)
        moved_a, moved_b = (influences(scores[drawn], truths[drawn], {}) for scores in (scores_a, scores_b))
    differences = {}
    for metric, value_a in found_a.items():
        value_b = found_b[metric]
        if isinstance(value_a, str) or isinstance(value_b, str):
            differences[metric] = MetricDifference(None, reason=value_a if isinstance(value_a, str) else str(value_b))
        elif bootstrapped:
            differences[metric] = _from_resamples(value_a - value_b, drawn_a[metric] - drawn_b[metric], confidence)
        elif metric in moved_a and metric in moved_b:
            error = standard_error(moved_a[metric] - moved_b[metric], n)
            differences[metric] = _from_error(value_a - value_b, error, confidence)
        else:
            differences[metric] = MetricDifference(value_a - value_b, reason=SAMPLE_CONSTANT)
    return Difference(
        n=n,
        dropped=dropped,
        **differences,
        interval=BOOTSTRAP if bootstrapped else ASYMPTOTIC,
        confidence=confidence,
        seed=seed,
        resamples=resamples if bootstrapped else 0,
    )


def _correlations(scores: Floats, truths: Floats) -> dict[str, float | str]:
    """Metric → its value, or a sentence why it has none."""
    problem = Extent.of(scores, truths).rank_problem
    return {
        "srcc": problem or srcc(scores, truths),
        "plcc": _plcc(scores, truths),
        "krcc": problem or krcc(scores, truths),
    }


def _plcc(scores: Floats, truths: Floats) -> float | str:
    return Extent.of(scores, truths).number_problem or plcc(scores, truths)


def _errors(scores: Floats, truths: Floats, line: Line | str) -> dict[str, float | str]:
    """RMSE and MAE after the linear mapping, or the sentence why there is none."""
    if isinstance(line, str):
        return {"rmse": line, "mae": line}
    errors = line.residuals(scores, truths)
    return {"rmse": float(np.sqrt((errors * errors).mean())), "mae": float(np.abs(errors).mean())}


def _from_resamples(value: float, differences: Floats, confidence: float) -> MetricDifference:
    ends = percentiles(differences, confidence)
    if isinstance(ends, str):
        return MetricDifference(value, reason=ends)
    return MetricDifference(value, *ends, two_sided_p(differences))


def _from_error(value: float, error: float, confidence: float) -> MetricDifference:
    width = float(stats.norm.ppf((1 + confidence) / 2)) * error
    p_value = float(2 * stats.norm.sf(abs(value) / error)) if error else float(value == 0)
    return MetricDifference(value, value - width, value + width, p_value)


def _sample(n: int, seed: int) -> NDArray[np.int64]:
    """The rows, in order, that the standard errors are computed from."""
    return np.sort(np.random.default_rng(seed).choice(n, min(n, SAMPLE_PAIRS), replace=False, shuffle=False))


def _measure_in_parts(
    scores: Floats, truths: Floats, dropped: int, seed: int, confidence: float, thresholds: Thresholds | None
) -> Agreement:
    """The two passes over pairs that memory does hold."""
    survey = Survey(seed)
    parts = [slice(start, start + _PART_PAIRS) for start in range(0, len(scores), _PART_PAIRS)]
    for part in parts:
        survey.add(scores[part], truths[part])
    tally = Tally(survey, thresholds)
    for part in parts:
        tally.add(scores[part], truths[part])
    return replace(tally.agreement(confidence), dropped=dropped)
