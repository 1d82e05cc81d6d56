"""The results of `evaluate`: each metric with its interval, or with the reason why it has none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

METRICS: Final = ("srcc", "plcc", "plcc_logistic4", "plcc_logistic5", "krcc", "rmse", "mae")
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
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    reason: str | None = None


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
        accuracy: share of pairs on the same side of the thresholds; None if no threshold was given. Its interval is
            Wilson's, at thresholds that are taken as given.
        interval: how all other intervals were made: `BOOTSTRAP` or `M_OUT_OF_N`.
        confidence: of every interval, such as 0.95.
        seed: of everything drawn.
        resamples: of the bootstrap.
        resample_pairs: pairs that each of them draws, m: n, or fewer, and then deviations are scaled by √(m/n).
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
    interval: str
    confidence: float
    seed: int
    resamples: int
    resample_pairs: int


@dataclass(frozen=True)
class Difference:
    """The difference between two sets of scores in their agreement with the same ground truth.

    Attributes:
        n: pairs used, the same for both.
        dropped: pairs left out, since one of the three values is null.
        srcc: Spearman's correlation of the first minus that of the second.
        plcc: the same for Pearson's, raw.
        krcc: the same for Kendall's tau-b.
        interval: how the intervals were made: `BOOTSTRAP` or `M_OUT_OF_N`.
        confidence: of every interval.
        seed: of everything drawn.
        resamples: of the bootstrap.
        resample_pairs: pairs that each of them draws.
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
    resample_pairs: int
