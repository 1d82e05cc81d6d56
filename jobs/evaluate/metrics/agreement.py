"""Scores and ground truth → SRCC, PLCC, KRCC, RMSE, MAE, accuracy; and the difference between two sets of scores.

Every value is exact, whatever the number of pairs. Intervals are bootstrapped, above 100,000 pairs from subsamples.
"""

from __future__ import annotations

import numpy as np

from jobs.evaluate.metrics.accuracy import Thresholds, accuracy
from jobs.evaluate.metrics.bootstrap import Drawable, percentiles, resample, resampling, two_sided_p
from jobs.evaluate.metrics.correlation import Extent, Floats, Line, Moments, krcc, plcc, srcc, without_nulls
from jobs.evaluate.metrics.estimate import Agreement, Difference, MetricDifference, estimate
from jobs.evaluate.metrics.logistic import LogisticMapping, fit_mappings


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
    """Measure the agreement of scores with ground truth.

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
    fits = fit_mappings(scores, truths)
    mapped = {metric: fit(scores) for metric, fit in fits.items() if isinstance(fit, LogisticMapping)}
    problem = Extent(scores, truths).number_problem
    line = None if problem else Moments(scores, truths).line
    values = _correlations(scores, truths) | _errors(scores, truths, line or str(problem))
    for metric, fit in fits.items():
        values[metric] = fit if isinstance(fit, str) else _plcc(mapped[metric], truths)
    plan = resampling(n)
    [resampled] = resample([Drawable(scores, truths, mapped)], plan, seed, resamples)
    intervals = {
        metric: percentiles(plan.scale(value, resampled[metric]), confidence)
        for metric, value in values.items()
        if not isinstance(value, str)
    }
    correct = thresholds.count_correct(scores, truths, line) if thresholds else None
    return Agreement(
        n=n,
        dropped=dropped,
        **{metric: estimate(value, intervals.get(metric)) for metric, value in values.items()},
        slope=line and line.slope,
        intercept=line and line.intercept,
        accuracy=accuracy(correct, n, confidence) if thresholds else None,
        interval=plan.interval,
        confidence=confidence,
        seed=seed,
        resamples=resamples,
        resample_pairs=plan.drawn,
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
    """Measure the difference in agreement of two sets of scores, paired on the same rows.

    Every resample draws the same rows for both, so their common noise cancels out. All values are exact, whatever
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
    plan = resampling(n)
    pairs = [Drawable(scores_a, truths, {}), Drawable(scores_b, truths, {})]
    drawn_a, drawn_b = resample(pairs, plan, seed, resamples)
    differences = {}
    for metric, value_a in found_a.items():
        value_b = found_b[metric]
        if isinstance(value_a, str) or isinstance(value_b, str):
            differences[metric] = MetricDifference(None, reason=value_a if isinstance(value_a, str) else str(value_b))
        else:
            value = value_a - value_b
            drawn = plan.scale(value, drawn_a[metric] - drawn_b[metric])
            differences[metric] = _from_resamples(value, drawn, confidence)
    return Difference(
        n=n,
        dropped=dropped,
        **differences,
        interval=plan.interval,
        confidence=confidence,
        seed=seed,
        resamples=resamples,
        resample_pairs=plan.drawn,
    )


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


def _from_resamples(value: float, differences: Floats, confidence: float) -> MetricDifference:
    ends = percentiles(differences, confidence)
    if isinstance(ends, str):
        return MetricDifference(value, reason=ends)
    return MetricDifference(value, *ends, two_sided_p(differences))
