"""Rank correlations of any number of pairs from a grid of counts: classes of scores × classes of truths.

A class that holds one value is exact: its pairs are ties. In the others the order within the class is not known, so the
grid also says how far its correlations can be from the exact ones. That bound is a proof, not a guess, and so far above
the error that is met (docstring of `RankGrid.srcc`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.evaluate.metrics.correlation import Floats

CLASSES: Final = 4096


class Bounded(NamedTuple):
    """A value that is at most `error` away from the exact one."""

    value: float
    error: float


class Axis:
    """The classes of one side of the pairs: half-open ranges between edges."""

    def __init__(self, sample: Floats, classes: int) -> None:
        """Find the edges.

        Args:
            sample: (m,) values that the edges are taken from: all of them if they are few, else those that cut the
                sample in equal parts. A value that fills a part gets a class of its own.
            classes: about how many.
        """
        edges = np.unique(sample)
        if len(edges) > classes:
            cuts = np.sort(sample)[np.arange(classes) * len(sample) // classes]
            edges, times = np.unique(cuts, return_counts=True)
            edges = np.unique(np.concatenate([edges, np.nextafter(edges[times > 1], np.inf)]))
        self._edges = edges  # (K - 1,)
        self._lows, self._highs = np.full(self.size, np.inf), np.full(self.size, -np.inf)

    @property
    def size(self) -> int:
        """K, one more than there are edges."""
        return len(self._edges) + 1

    @property
    def mixed(self) -> NDArray[np.bool_]:
        """(K,): which classes hold different values."""
        return self._lows < self._highs

    def place(self, values: Floats) -> NDArray[np.int64]:
        """(n,): the class of each value."""
        return np.searchsorted(self._edges, values, side="right")

    def note(self, classes: NDArray[np.int64], values: Floats) -> None:
        """Remember the ends of the classes."""
        np.minimum.at(self._lows, classes, values)
        np.maximum.at(self._highs, classes, values)


class RankGrid:
    """Counts of pairs by class; `add` parts in any number, then ask."""

    def __init__(self, scores: Axis, truths: Axis) -> None:
        """Begin without pairs: A classes of scores, B of truths."""
        self._scores, self._truths = scores, truths
        self._counts = np.zeros(scores.size * truths.size, np.int64)
        self.n = 0

    def add(self, scores: Floats, truths: Floats) -> None:
        """Count more pairs, (m,) each, no NaN."""
        rows, columns = self._scores.place(scores), self._truths.place(truths)
        self._scores.note(rows, scores)
        self._truths.note(columns, truths)
        np.add.at(self._counts, rows * self._truths.size + columns, 1)
        self.n += len(scores)

    def cells(self, scores: Floats, truths: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(m,) each: where pairs stand in the grid."""
        return self._scores.place(scores), self._truths.place(truths)

    def srcc(self) -> Bounded:
        """Spearman's correlation of the classes' average ranks; both sides must vary.

        The ranks within mixed classes are taken as all different and as unrelated to anything, which leaves an error of
        the square of a class's share. The bound takes them as related as they can be (Cauchy and Schwarz), which leaves
        its first power.
        """
        shares = self._shares()
        x, y = shares.sum(1), shares.sum(0)  # (A,), (B,)
        u, v = _average_ranks(x), _average_ranks(y)
        covariance = float(u @ shares @ v)
        inner_x = self._scores.mixed * (x**2 - self.n**-2.0).clip(0) / 12  # (A,) variance of ranks within the class
        inner_y = self._truths.mixed * (y**2 - self.n**-2.0).clip(0) / 12
        outer_x, outer_y = float(x @ u**2), float(y @ v**2)
        wide = ((outer_x + x @ inner_x) * (outer_y + y @ inner_y)) ** 0.5
        # Within a score class, truths vary by this much about their mean: (A,); and the other way round.
        across_x = (shares @ v**2 / x.clip(1e-300) - (shares @ v / x.clip(1e-300)) ** 2).clip(0)
        across_y = (u**2 @ shares / y.clip(1e-300) - (u @ shares / y.clip(1e-300)) ** 2).clip(0)
        slack = x @ np.sqrt(inner_x * across_x) + y @ np.sqrt(inner_y * across_y)
        slack += ((x @ inner_x) * (y @ inner_y)) ** 0.5
        return _bounded(covariance, float(slack), float(wide), (outer_x * outer_y) ** 0.5)

    def krcc(self) -> Bounded:
        """Kendall's tau-b; both sides must vary.

        Pairs of pairs in one mixed class count neither as concordant nor as discordant, and not as ties; the bound
        takes them as all one or all the other.
        """
        shares = self._shares()
        x, y = shares.sum(1), shares.sum(0)
        order = float((shares * _above_less_below(_above_less_below(shares, 0), 1)).sum())
        tied_x, tied_y = x * (x - 1 / self.n).clip(0), y * (y - 1 / self.n).clip(0)  # (A,), (B,) pairs within a class
        open_x, open_y = float(tied_x[self._scores.mixed].sum()), float(tied_y[self._truths.mixed].sum())
        untied_x = 1 - 1 / self.n - float(tied_x.sum()) + open_x
        untied_y = 1 - 1 / self.n - float(tied_y.sum()) + open_y
        narrow = ((untied_x - open_x) * (untied_y - open_y)) ** 0.5
        return _bounded(order, open_x + open_y, (untied_x * untied_y) ** 0.5, narrow)

    def srcc_influence(self) -> Floats:
        """(A, B): how much a pair in each cell moves SRCC, times n; its mean over the pairs is 0.

        Its variance over n is that of SRCC, whatever the distribution and the ties: SRCC is a ratio of U-statistics.

        Source: Hoeffding, "A class of statistics with asymptotically normal distribution", 1948. Borkowf, "Computing
        the nonnull asymptotic variance and the asymptotic relative efficiency of Spearman's rank correlation", 2002.
        """
        shares = self._shares()
        x, y = shares.sum(1), shares.sum(0)
        u, v = _average_ranks(x), _average_ranks(y)
        xy, xx, yy = float(u @ shares @ v), float(x @ u**2), float(y @ v**2)
        # A pair has its own product of ranks, and it shifts the ranks of all others.
        moved = np.multiply.outer(u, v)
        moved += _above_less_below(shares @ v, 0)[:, None] / 2
        moved += _above_less_below(u @ shares, 0) / 2
        moved -= 3 * xy
        moved_xx = u**2 + _above_less_below(x * u, 0) - 3 * xx
        moved_yy = v**2 + _above_less_below(y * v, 0) - 3 * yy
        return _ratio_influence(xy, xx, yy, moved, moved_xx, moved_yy)

    def krcc_influence(self) -> Floats:
        """(A, B): the same for KRCC.

        Source: Cliff and Charlin, "Variances and covariances of Kendall's tau and their estimation", 1991.
        """
        shares = self._shares()
        x, y = shares.sum(1), shares.sum(0)
        moved = _above_less_below(_above_less_below(shares, 0), 1)
        xy, xx, yy = float((shares * moved).sum()), float(1 - x @ x), float(1 - y @ y)
        return _ratio_influence(xy, xx, yy, 2 * (moved - xy), 2 * (1 - x - xx), 2 * (1 - y - yy))

    def _shares(self) -> Floats:
        """(A, B): of all pairs."""
        return self._counts.reshape(self._scores.size, self._truths.size) / self.n


def _average_ranks(shares: Floats) -> Floats:
    """(K,): the average rank of each class, from −½ to ½."""
    return np.cumsum(shares) - shares / 2 - 0.5


def _above_less_below(shares: Floats, axis: int) -> Floats:
    """For each class, what lies in the classes above it minus what lies below."""
    upto = np.cumsum(shares, axis)
    rest: Floats = shares.sum(axis, keepdims=True) - 2 * upto + shares
    return rest


def _ratio_influence(xy: float, xx: float, yy: float, moved: Floats, moved_xx: Floats, moved_yy: Floats) -> Floats:
    """Of xy / √(xx · yy), by the delta method: (A, B), from the influences on its parts, (A, B), (A,) and (B,)."""
    scale = (xx * yy) ** 0.5
    influence: Floats = moved / scale
    influence -= (xy / scale / 2) * (moved_xx[:, None] / xx + moved_yy / yy)
    return influence


def _bounded(product: float, slack: float, wide: float, narrow: float) -> Bounded:
    """Product over wide; the exact product is within ± slack of it, the exact divisor between narrow and wide."""
    value = min(1.0, max(-1.0, product / wide))
    if narrow <= 0:
        return Bounded(value, 2.0)
    ends = [(product + side) / divisor for side in (-slack, slack) for divisor in (narrow, wide)]
    return Bounded(value, max(abs(min(1.0, max(-1.0, end)) - value) for end in ends))
