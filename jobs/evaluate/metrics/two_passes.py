"""Agreement of more pairs than memory holds: two passes over them, part by part.

The first pass has the exact moments and a sample of 2^20 pairs, which gives the classes of the rank grid, the logistic
mappings and the standard errors. The second counts the grid and computes, exactly, PLCC after each mapping, RMSE, MAE
and accuracy. SRCC and KRCC come with the bound of their error. That a logistic mapping is fitted to a sample costs PLCC
about one over the sample's size.

    survey = Survey(seed=0)
    for scores, truths in parts():
        survey.add(scores, truths)
    tally = Tally(survey, thresholds=None)
    for scores, truths in parts():
        tally.add(scores, truths)
    agreement = tally.agreement(confidence=0.95)
"""

from __future__ import annotations

import numpy as np

from jobs.evaluate.metrics.accuracy import Thresholds, accuracy
from jobs.evaluate.metrics.asymptotic import SAMPLE_PAIRS, asymptotic_intervals, influences
from jobs.evaluate.metrics.correlation import Extent, Floats, Moments, without_nulls
from jobs.evaluate.metrics.estimate import ASYMPTOTIC, Agreement, estimate
from jobs.evaluate.metrics.logistic import MAPPED_METRICS, LogisticMapping, fit_mappings
from jobs.evaluate.metrics.rank_grid import CLASSES, Axis, RankGrid


class Survey:
    """The first pass.

    The sample is that of the smallest random keys, one drawn for each pair, so it does not depend on how the pairs are
    cut into parts.
    """

    def __init__(self, seed: int) -> None:
        """Begin without pairs; the seed is that of the sample."""
        self.seed = seed
        self.dropped = 0
        self.extent, self.moments = Extent(), Moments()
        self.scores, self.truths = np.empty(0), np.empty(0)  # the sample
        self._keys = np.empty(0)
        self._generator = np.random.default_rng(seed)

    def add(self, scores: Floats, truths: Floats) -> None:
        """Take in more pairs, (m,) float64 each; NaN is null."""
        (scores, truths), dropped = without_nulls(scores, truths)
        self.dropped += dropped
        self.extent.add(scores, truths)
        if len(scores) and not self.extent.infinite:
            self.moments.add(scores, truths)
        keys = np.concatenate([self._keys, self._generator.random(len(scores))])
        kept = np.sort(np.argpartition(keys, SAMPLE_PAIRS)[:SAMPLE_PAIRS]) if len(keys) > SAMPLE_PAIRS else slice(None)
        self._keys = keys[kept]
        self.scores = np.concatenate([self.scores, scores])[kept]
        self.truths = np.concatenate([self.truths, truths])[kept]


class Tally:
    """The second pass, over the same pairs."""

    def __init__(self, survey: Survey, thresholds: Thresholds | None) -> None:
        """Begin without pairs; without thresholds there is no binary accuracy."""
        self._survey, self._thresholds = survey, thresholds
        self._problem = survey.extent.number_problem
        self._line = None if self._problem else survey.moments.line
        self._fits = fit_mappings(survey.scores, survey.truths)
        self._mapped = {metric: Moments() for metric in MAPPED_METRICS}
        self._grid = RankGrid(Axis(survey.scores, CLASSES), Axis(survey.truths, CLASSES))
        self._absolute = self._squared = 0.0
        self._correct: int | None = 0

    def add(self, scores: Floats, truths: Floats) -> None:
        """Count more pairs, (m,) float64 each; NaN is null."""
        (scores, truths), _ = without_nulls(scores, truths)
        if not len(scores):
            return
        self._grid.add(scores, truths)
        if self._thresholds and self._correct is not None:
            correct = self._thresholds.count_correct(scores, truths, self._line)
            self._correct = None if correct is None else self._correct + correct
        if self._line:
            errors = self._line.residuals(scores, truths)
            self._absolute += float(np.abs(errors).sum())
            self._squared += float((errors * errors).sum())
            for metric, fit in self._fits.items():
                if isinstance(fit, LogisticMapping):
                    self._mapped[metric].add(fit(scores), truths)

    def agreement(self, confidence: float) -> Agreement:
        """What was found.

        Raises:
            ValueError: the two passes saw different numbers of pairs.
        """
        survey, n = self._survey, self._survey.extent.n
        if self._grid.n != n:
            raise ValueError(f"The first pass saw {n:,} pairs, the second {self._grid.n:,}.")
        values, rank_error = self._values()
        sample = survey.scores, survey.truths
        mapped = {metric: fit(survey.scores) for metric, fit in self._fits.items() if isinstance(fit, LogisticMapping)}
        intervals = asymptotic_intervals(values, influences(*sample, mapped), n, confidence)
        return Agreement(
            n=n,
            dropped=survey.dropped,
            **{metric: estimate(value, intervals.get(metric)) for metric, value in values.items()},
            slope=self._line and self._line.slope,
            intercept=self._line and self._line.intercept,
            accuracy=accuracy(self._correct, n, confidence) if self._thresholds else None,
            interval=ASYMPTOTIC,
            confidence=confidence,
            seed=survey.seed,
            resamples=0,
            rank_error=rank_error,
        )

    def _values(self) -> tuple[dict[str, float | str], float]:
        """Metric → value or why there is none; and the largest error of the rank metrics."""
        survey, values = self._survey, dict[str, float | str]()
        rank_error = 0.0
        if problem := survey.extent.rank_problem:
            values |= {"srcc": problem, "krcc": problem}
        else:
            srcc, krcc = self._grid.srcc(), self._grid.krcc()
            values |= {"srcc": srcc.value, "krcc": krcc.value}
            rank_error = max(srcc.error, krcc.error)
        if self._problem:
            return values | dict.fromkeys(("plcc", "rmse", "mae", *MAPPED_METRICS), self._problem), rank_error
        n = survey.extent.n
        values |= {
            "plcc": survey.moments.correlation,
            "rmse": (self._squared / n) ** 0.5,
            "mae": self._absolute / n,
        }
        for metric, fit in self._fits.items():
            values[metric] = fit if isinstance(fit, str) else self._mapped[metric].correlation
        return values, rank_error
