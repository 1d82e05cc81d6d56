"""The independent parts of pairs: the pairs themselves, or clusters of them, such as pictures made from one original.

Pairs of one cluster share their content, so a scorer errs on them alike. Whoever draws or leaves out single pairs then
sees far less chance than there is, so clusters are drawn and left out whole.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


class Units:
    """The units of n pairs.

    Attributes:
        pairs: n.
        count: number of units.
        clustered: whether units are clusters.
    """

    def __init__(self, pairs: int, clusters: NDArray[np.int64] | None = None) -> None:
        """Take each pair for a unit, or the pairs of each cluster.

        Args:
            pairs: n.
            clusters: (n,) numbers, equal within a cluster.
        """
        self.pairs, self.clustered = pairs, clusters is not None
        if clusters is None:
            self.count = pairs
            return
        codes, sizes = np.unique(clusters, return_inverse=True, return_counts=True)[1:]
        self.count = len(sizes)
        self._order = np.argsort(codes, kind="stable")
        self._sizes, self._starts = sizes, np.cumsum(sizes) - sizes

    @property
    def noun(self) -> str:
        """What they are called: `clusters` or `pairs`."""
        return "clusters" if self.clustered else "pairs"

    def rows(self, units: Rows) -> Rows:
        """The rows of these units, as often as they are named: of pairs those numbers themselves."""
        if not self.clustered:
            return units
        sizes = self._sizes[units]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        rows: Rows = self._order[np.repeat(self._starts[units], sizes) + within]
        return rows

    def blocks(self, most: int, seed: int) -> Iterator[Rows]:
        """The rows of each unit; of more units than `most`, those of as many equal lots of them, drawn by chance."""
        units = np.arange(self.count)
        if self.count > most:
            units = np.random.default_rng(seed).permutation(self.count)
        for lot in np.array_split(units, min(most, self.count)) if self.count else ():
            yield self.rows(lot)
