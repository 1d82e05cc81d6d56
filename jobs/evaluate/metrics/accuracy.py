"""Binary accuracy: the share of scores on the same side of a threshold as the ground truth."""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

from jobs.evaluate.metrics.correlation import Floats, Line
from jobs.evaluate.metrics.estimate import Estimate
from jobs.evaluate.metrics.jackknife import MOST_BLOCKS, jackknife
from jobs.evaluate.metrics.units import Units


def correct_through_line(
    scores: Floats, truths: Floats, threshold: float, line: Line | None
) -> NDArray[np.bool_] | str:
    """(n,): whether a score, mapped onto the truth's scale, and its truth are both above the threshold, or neither."""
    if line is None:
        return "There is no linear mapping to compare the scores by; give a threshold for them."
    return correct_directly(line.slope * scores + line.intercept, truths, threshold, threshold)


def correct_directly(
    scores: Floats, truths: Floats, truth_threshold: float, score_threshold: float
) -> NDArray[np.bool_]:
    """(n,): whether both are above their thresholds, or neither is."""
    correct: NDArray[np.bool_] = (scores > score_threshold) == (truths > truth_threshold)
    return correct


def base_rate(truths: Floats, threshold: float) -> float | None:
    """The share of the commoner side, which always giving that answer reaches; None without pairs."""
    return None if not len(truths) else float(max(good := (truths > threshold).mean(), 1 - good))


def accuracy(correct: NDArray[np.bool_] | str, units: Units, seed: int, confidence: float) -> Estimate:
    """The share of correct pairs with Wilson's interval; of clusters, for as many pairs as they are worth.

    Pairs of one cluster say less than as many of different ones. The variance of the share without each cluster says
    how many independent pairs would be as sure (the effective sample size, as in Korn and Graubard 1998).
    """
    if not units.count:
        return Estimate(None, reason="There are no pairs.")
    if isinstance(correct, str):
        return Estimate(None, reason=correct)
    share, worth = float(correct.mean()), float(units.pairs)
    if units.clustered:
        if units.count < 2:
            return Estimate(share, reason="There is one cluster only.")
        blocks = list(units.blocks(MOST_BLOCKS, seed))
        sizes = np.array([len(block) for block in blocks], np.float64)
        hits = np.array([correct[block].sum() for block in blocks])
        error = jackknife(share, (hits.sum() - hits) / (sizes.sum() - sizes), sizes).error
        # Where all are right, or none is, an error above 0 is rounding.
        varies = error > 0 and 0 < share < 1
        worth = min(worth, share * (1 - share) / error**2) if varies else float(units.count)
    return Estimate(share, *_wilson(share, worth, float(scipy.stats.norm.ppf((1 + confidence) / 2))))


def _wilson(share: float, n: float, z: float) -> tuple[float, float]:
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, centre - reach), min(1.0, centre + reach)
