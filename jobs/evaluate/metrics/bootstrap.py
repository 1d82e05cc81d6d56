"""Bootstrap intervals: the metrics of units drawn again and again from the units, with replacement.

Above 100,000 pairs each resample draws m units, with 20,000 pairs, of all n (the m-out-of-n bootstrap). A metric's
deviation from its value on all pairs shrinks with 1/√m, so it is scaled by √(m/n) to that of n units. The bias of a
resample shrinks with 1/m: relative to the interval's width it is 1/√m, below 1%.

Each resample computes its metrics exactly, on ranks and numbers that are looked up, not sorted again. The logistic
mappings are those of all pairs: they are where the correlation is at its maximum, so fitting them again would move it
by the square of what the resample moves them (the envelope theorem). With few pairs that square shows, and their
intervals are too narrow.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13. Bickel, Götze and van Zwet,
"Resampling fewer than n observations", 1997, for m out of n.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from jobs.evaluate.metrics.correlation import Extent, Floats, Moments
from jobs.evaluate.metrics.estimate import BOOTSTRAP, CORRELATIONS, JACKKNIFE, M_OUT_OF_N
from jobs.evaluate.metrics.jackknife import MOST_BLOCKS
from jobs.evaluate.metrics.units import Rows, Units

Resampled = dict[str, Floats]  # metric → (resamples,), NaN where a resample has none

FULL_PAIRS: Final = 100_000  # up to here a resample draws as many units as there are: 34 s for 1,000 resamples
SUBSAMPLE_PAIRS: Final = 20_000
_FEWEST_DRAWN: Final = 200  # clusters, however large they are
_MOST_UNDEFINED: Final = 0.05  # of the resamples, for an interval


class Drawable:
    """Pairs to draw from, with everything precomputed that does not depend on the draw."""

    def __init__(self, scores: Floats, truths: Floats, mapped: Mapping[str, Floats]) -> None:
        """Look up ranks once.

        Args:
            scores: (n,) float64, no NaN.
            truths: (n,) float64, no NaN.
            mapped: metric → (n,) scores after the mapping that this Pearson correlation is of.
        """
        self._score_ranks, self._truth_ranks = _dense_ranks(scores), _dense_ranks(truths)
        self._numbers = None if Extent(scores, truths).number_problem else (scores, truths)
        self._mapped = mapped

    def metrics(self, drawn: Rows) -> dict[str, float]:
        """The correlations of these pairs; those that are not defined are left out."""
        score_ranks, truth_ranks = self._score_ranks[drawn], self._truth_ranks[drawn]
        if _constant(score_ranks) or _constant(truth_ranks):
            return {}
        # Without scipy's checks of axes and NaN: ranks do not need them, and of 1,000 pairs they take most of the time.
        kendalltau = inspect.unwrap(scipy.stats.kendalltau)
        found = {
            "srcc": Moments(_average_ranks(score_ranks), _average_ranks(truth_ranks)).correlation,
            "krcc": float(kendalltau(score_ranks, truth_ranks)[0]),
        }
        if self._numbers is None:
            return found
        scores, truths = (column[drawn] for column in self._numbers)
        moments = Moments(scores, truths)
        if not moments.sum_xx * moments.sum_yy:  # different, but the squares of the differences are 0
            return found
        found["plcc"] = moments.correlation
        for metric, column in self._mapped.items():
            mapped = column[drawn]
            if not _constant(mapped):
                found[metric] = Moments(mapped, truths).correlation
        return found


class Resampling(NamedTuple):
    """The plan behind the intervals.

    Attributes:
        units: what is drawn, or left out.
        drawn: units in each resample, m.
        interval: the name of the method.
    """

    units: Units
    drawn: int
    interval: str

    def scale(self, value: float, resampled: Floats) -> Floats:
        """(resamples,): values of resamples, their deviations from that of all pairs scaled from m to n units."""
        if self.drawn == self.units.count:
            return resampled
        scaled: Floats = value + (self.drawn / self.units.count) ** 0.5 * (resampled - value)
        return scaled


def resampling(units: Units) -> Resampling:
    """Few units are left out in turn; of more, each resample draws as many; above `FULL_PAIRS` pairs, some of them."""
    if units.count <= MOST_BLOCKS:
        return Resampling(units, units.count, JACKKNIFE)
    if units.pairs <= FULL_PAIRS:
        return Resampling(units, units.count, BOOTSTRAP)
    drawn = max(_FEWEST_DRAWN, units.count * SUBSAMPLE_PAIRS // units.pairs)
    return Resampling(units, min(units.count, drawn), M_OUT_OF_N)


def resample(pairs: Sequence[Drawable], plan: Resampling, seed: int, resamples: int) -> list[Resampled]:
    """The correlations of each of several sets of pairs in every resample; all sets draw the same rows.

    Args:
        pairs: of n pairs each, in the same order.
        plan: how many units a resample draws.
        seed: the same pairs in the same order and the same seed give the same bytes.
        resamples: number of resamples.
    """
    generator = np.random.default_rng(seed)
    draws = (plan.units.rows(generator.integers(0, plan.units.count, plan.drawn)) for _ in range(resamples))
    return _metrics(pairs, draws, resamples)


def leave_out(pairs: Sequence[Drawable], units: Units, seed: int) -> tuple[list[Resampled], Floats]:
    """The correlations of each of several sets of pairs without each block of units, and the pairs of each block."""
    blocks = list(units.blocks(MOST_BLOCKS, seed))
    kept = (np.delete(np.arange(units.pairs), block) for block in blocks)
    return _metrics(pairs, kept, len(blocks)), np.array([len(block) for block in blocks], np.float64)


def _metrics(pairs: Sequence[Drawable], rows: Iterable[Rows], count: int) -> list[Resampled]:
    found: list[Resampled] = [{metric: np.full(count, np.nan) for metric in CORRELATIONS} for _ in pairs]
    for number, drawn in enumerate(rows):
        for one, values in zip(pairs, found, strict=True):
            for metric, value in one.metrics(drawn).items():
                values[metric][number] = value
    return found


def percentiles(values: Floats, confidence: float) -> tuple[float, float] | str:
    """The interval, or a sentence why there is none.

    Args:
        values: (resamples,), NaN where a resample has no value.
        confidence: such as 0.95.
    """
    defined = values[~np.isnan(values)]
    if len(values) - len(defined) > _MOST_UNDEFINED * len(values):
        missing = len(values) - len(defined)
        return f"{missing:,} of {len(values):,} resamples have no value: too few pairs, or too few different ones."
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _dense_ranks(values: Floats | NDArray[np.int32]) -> NDArray[np.int32]:
    """(n,): 0 for the smallest value, 1 for the next that differs, and so on."""
    return np.unique(values, return_inverse=True)[1].astype(np.int32)


def _average_ranks(ranks: NDArray[np.int32]) -> Floats:
    """Ranks from 1, the average for ties, of dense ranks that may have gaps: counted, sorted only if gaps are many."""
    if ranks.max() > 8 * len(ranks):
        ranks = _dense_ranks(ranks)
    counts = np.bincount(ranks)
    averages: Floats = np.cumsum(counts) - (counts - 1) / 2
    return averages[ranks]


def _constant(values: NDArray[np.int32] | Floats) -> bool:
    return bool(values.min() == values.max())
