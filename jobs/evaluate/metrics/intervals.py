"""The intervals of correlations, and of differences between two sets of scores, by the plan that the units ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from jobs.evaluate.metrics.bootstrap import Drawable, Resampled, Resampling, leave_out, percentiles, resample
from jobs.evaluate.metrics.correlation import Floats
from jobs.evaluate.metrics.estimate import JACKKNIFE, MetricDifference
from jobs.evaluate.metrics.jackknife import Jackknife, jackknife, too_few
from jobs.evaluate.metrics.units import Units

Ends = tuple[float, float]

_PERFECT: Final = 1 - 1e-12


class Resamples:
    """The correlations of sets of pairs in each resample, or without each block of units."""

    def __init__(self, pairs: Sequence[Drawable], plan: Resampling, seed: int, resamples: int) -> None:
        """Compute them; all sets draw the same rows.

        Args:
            pairs: of n pairs each, in the same order.
            plan: the method.
            seed: of everything drawn.
            resamples: number of resamples of a bootstrap.
        """
        self._plan = plan
        self._problem = too_few(plan.units)
        self._found: list[Resampled] = []
        self._sizes = np.empty(0)
        if self._problem:
            return
        if plan.interval == JACKKNIFE:
            self._found, self._sizes = leave_out(pairs, plan.units, seed)
        else:
            self._found = resample(pairs, plan, seed, resamples)

    def interval(self, metric: str, value: float, truths: Floats, confidence: float) -> Ends | str:
        """The interval of a correlation of the first set, or a sentence why there is none.

        Args:
            metric: its name.
            value: of all pairs.
            truths: (n,) ground truth.
            confidence: such as 0.95.
        """
        if self._problem:
            return self._problem
        if abs(value) >= _PERFECT:
            return _perfect(metric, value, truths, self._plan.units, confidence)
        found = self._found[0][metric]
        if self._plan.interval != JACKKNIFE:
            return percentiles(self._plan.scale(value, found), confidence)
        if np.isnan(found).any():
            return self._undefined
        # Leaving a unit out may leave a perfect order, which Fisher's z has no number for: half a swap below it.
        most = 1 - {"srcc": 6 / len(truths) ** 3, "krcc": 2 / len(truths) ** 2}.get(metric, 1 - _PERFECT)
        z, without = np.arctanh(np.clip(value, -most, most)), np.arctanh(np.clip(found, -most, most))
        low, high = np.tanh(jackknife(float(z), without, self._sizes).interval(confidence)).tolist()
        return min(low, value), max(high, value)

    def difference(
        self, metric: str, values: tuple[float, float], sets: tuple[int, int], confidence: float
    ) -> MetricDifference:
        """The difference of a correlation between two sets, with its interval and p-value.

        Args:
            metric: its name.
            values: of both sets, on all pairs.
            sets: which sets.
            confidence: such as 0.95.
        """
        first, second = values
        value = first - second
        drawn = self._distribution(metric, value, sets)
        if not isinstance(drawn, str) and value and not drawn.error:
            drawn = "The difference is the same in every resample."
        if isinstance(drawn, str):
            return MetricDifference(value, reason=drawn, first=first, second=second)
        low, high = drawn.interval(confidence)
        return MetricDifference(value, min(low, value), max(high, value), drawn.p_value(), first=first, second=second)

    def _distribution(self, metric: str, value: float, sets: tuple[int, int]) -> Jackknife | str:
        if self._problem:
            return self._problem
        found = self._found[sets[0]][metric] - self._found[sets[1]][metric]
        if self._plan.interval == JACKKNIFE:
            return self._undefined if np.isnan(found).any() else jackknife(value, found, self._sizes)
        scaled = self._plan.scale(value, found)
        ends = percentiles(scaled, 0.95)
        if isinstance(ends, str):
            return ends
        return Jackknife(value, float(np.nanstd(scaled, ddof=1)), self._plan.units.count - 1)

    @property
    def _undefined(self) -> str:
        noun = self._plan.units.noun
        return f"Without one of the {noun} it has no value: too few {noun}, or too few different ones."


def _perfect(metric: str, value: float, truths: Floats, units: Units, confidence: float) -> Ends | str:
    """The interval of a perfect order, of which every resample is perfect too.

    Units in pairs, each unit in one pair, are in order independently of each other. If all m of them are, the chance
    of it is at least (α/2)^(1/m) (Clopper and Pearson), and Kendall's correlation at least twice that less 1.
    Spearman's is at least (3τ − 1) / 2 (Daniels 1950).
    """
    if metric not in ("srcc", "krcc"):
        return "All pairs lie on one line or curve: every resample does, so they say nothing of others."
    pairs = min(units.count, len(np.unique(truths))) // 2
    least = 2 * ((1 - confidence) / 2) ** (1 / max(1, pairs)) - 1
    if metric == "srcc":
        least = max(-1.0, (3 * least - 1) / 2)
    return (least, 1.0) if value > 0 else (-1.0, -least)
