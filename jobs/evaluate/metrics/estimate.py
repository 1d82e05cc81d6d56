"""The results of `evaluate`: each metric with its interval, or with the reason why it has none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CORRELATIONS: Final = ("srcc", "plcc", "plcc_logistic4", "plcc_logistic5", "krcc")
DIFFERENCES: Final = ("srcc", "plcc", "krcc")
JACKKNIFE: Final = "jackknife, Student's t"
BOOTSTRAP: Final = "bootstrap percentile"
M_OUT_OF_N: Final = "m-out-of-n bootstrap percentile"


@dataclass(frozen=True)
class Estimate:
    """A metric and its interval.

    Attributes:
        value: of the metric; None where it is not defined.
        low: lower end of the interval; None where there is none.
        high: upper end.
        reason: one sentence why the value or the interval is None.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


def estimate(found: float | str, ends: tuple[float, float] | str | None) -> Estimate:
    """From a value or the reason why there is none, and an interval or the reason why there is none."""
    if isinstance(found, str):
        return Estimate(None, reason=found)
    if ends is None or isinstance(ends, str):
        return Estimate(found, reason=ends)
    return Estimate(found, *ends)


@dataclass(frozen=True)
class MetricDifference:
    """A metric of the first scores minus that of the second.

    Attributes:
        value: the difference; None where one of the two is not defined.
        low: lower end of its interval; None where there is none.
        high: upper end.
        p_value: two-sided, of no difference; None where there is no interval.
        reason: one sentence why something is None.
        p_corrected: the same after Holm's correction, where several comparisons are made at once.
        first: the metric of the first scores, on the same pairs.
        second: that of the second scores.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    reason: str | None = None
    p_corrected: float | None = None
    first: float | None = None
    second: float | None = None


@dataclass(frozen=True)
class Agreement:
    """The agreement of scores with ground truth.

    Attributes:
        n: pairs used.
        dropped: pairs left out, since one side is null.
        srcc: Spearman's correlation, ties at their average rank.
        plcc: Pearson's correlation of the raw scores.
        plcc_logistic4: Pearson's correlation after the logistic mapping with four parameters.
        plcc_logistic5: the same with five.
        krcc: Kendall's tau-b.
        rmse: root of the mean squared error after the linear mapping, in units of the truth.
        mae: mean absolute error after the linear mapping, in units of the truth.
        slope: of the linear mapping truth ≈ slope · score + intercept with the least squared error; None without one.
        intercept: of the same.
        accuracy: share of pairs on the same side of the threshold, the scores mapped by that line; None if no threshold
            was given. Its interval is Wilson's, at a threshold that is taken as given.
        accuracy_direct: the same, the scores compared with a threshold of their own; None if there is none.
        base_rate: accuracy of always giving the commoner answer; None if no threshold was given.
        interval: how the intervals of correlations were made: `JACKKNIFE`, `BOOTSTRAP` or `M_OUT_OF_N`. Those of RMSE
            and MAE are always `JACKKNIFE`.
        confidence: of every interval, such as 0.95.
        seed: of everything drawn.
        resamples: of the bootstrap; of the jackknife, the number of parts left out in turn.
        clusters: clusters that are drawn or left out whole; None if pairs are.
        resample_units: pairs, or clusters, that each resample draws, m: all n, or fewer, and then deviations are scaled
            by √(m/n).
    """

    n: int
    dropped: int
    srcc: Estimate
    plcc: Estimate
    plcc_logistic4: Estimate
    plcc_logistic5: Estimate
    krcc: Estimate
    rmse: Estimate
    mae: Estimate
    slope: float | None
    intercept: float | None
    accuracy: Estimate | None
    accuracy_direct: Estimate | None
    base_rate: float | None
    interval: str
    confidence: float
    seed: int
    resamples: int
    clusters: int | None
    resample_units: int

    @property
    def units(self) -> int:
        """Number of independent parts behind the intervals: clusters, or pairs."""
        return self.n if self.clusters is None else self.clusters


@dataclass(frozen=True)
class Difference:
    """The difference between two sets of scores in their agreement with the same ground truth.

    Attributes:
        n: pairs used, the same for both.
        dropped: pairs left out, since one of the three values is null.
        srcc: Spearman's correlation of the first minus that of the second.
        plcc: the same for Pearson's, raw.
        krcc: the same for Kendall's tau-b.
        interval: how the standard errors were made: as of `Agreement`. Intervals and p-values are Student's t of them.
        confidence: of every interval.
        seed: of everything drawn.
        resamples: as of `Agreement`.
        clusters: as of `Agreement`.
        resample_units: as of `Agreement`.
    """

    n: int
    dropped: int
    srcc: MetricDifference
    plcc: MetricDifference
    krcc: MetricDifference
    interval: str
    confidence: float
    seed: int
    resamples: int
    clusters: int | None
    resample_units: int
