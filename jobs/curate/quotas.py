"""The top-k rows of each group, of any number of rows, in bounded memory.

Points are first counted into a histogram for each group. It shows in which bin the last place of a group falls: all
above are taken, all below are not, and only the rows of that bin are looked at one by one. Ties are broken by
the image_id, the smaller one in byte order first.

A sample is a quota too: of random points, which depend on the image_id and the seed alone, in groups of like scores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from artimuse_actor.errors import UsageError
from jobs.manifest.id_index import keyed_hashes

SCORE_BINS: Final = 20
"""Strata of a sample: 5 points each."""

MAX_SEED: Final = 10**15
_CELLS: Final = 1 << 23  # of all histograms together: 64 MiB
_MOST_BINS: Final = 1 << 16
_MOST_UNDECIDED: Final = 1 << 20  # rows kept of last bins before those that cannot win are dropped

Groups = NDArray[np.int64]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Top:
    """The size of each group's selection: a number, or a share of the rows.

    Attributes:
        text: as the user gave it.
        count: rows of each group, if it is a number.
        share: of the rows of the group, rounded up, if it is a percentage.
    """

    text: str
    count: int | None
    share: Fraction | None

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows to take from each group, given the rows it has: (G,) int64."""
        if self.share is None:
            return np.minimum(rows, self.count or 0)
        return np.array([math.ceil(int(count) * self.share) for count in rows], dtype=np.int64)


def read_top(text: str) -> Top:
    """`10%`, `0.5%` or `50000`. Raises UsageError."""
    match = re.fullmatch(r"(\d{1,15})|(\d{1,3}(?:\.\d{1,9})?)\s*%", text.strip())
    if not match:
        raise UsageError(f"--top takes a share such as 10% or a number such as 50000, not {text!r}.")
    if match[1]:
        if not int(match[1]):
            raise UsageError("--top 0 would take nothing. It takes a share such as 10% or a number from 1.")
        return Top(text, int(match[1]), None)
    share = Fraction(match[2]) / 100
    if not 0 < share <= 1:
        raise UsageError(f"--top {text}: a share is above 0% and at most 100%.")
    return Top(text, None, share)


def shares_of_sample(size: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """A sample of `size` spread over strata in proportion to their rows, by largest remainders: (G,) int64."""
    total = int(rows.sum())
    size = min(size, total)
    if not total:
        return np.zeros_like(rows)
    exact = [Fraction(int(count) * size, total) for count in rows]
    places = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(rows)), key=lambda stratum: (places[stratum] - exact[stratum], stratum))
    for stratum in by_remainder[: size - sum(places)]:
        places[stratum] += 1
    return np.array(places, dtype=np.int64)


def strata(scores: Points) -> Groups:
    """The stratum of each score: (N,) int64."""
    return np.clip(scores * (SCORE_BINS / 100), 0, SCORE_BINS - 1).astype(np.int64)


def random_points(image_ids: pa.ChunkedArray, seed: int) -> Points:
    """Points that look random and depend on id and seed alone: (N,) float64 below 100."""
    return (keyed_hashes(image_ids, f"{seed:016}") >> np.uint64(11)).astype(np.float64) * (100 / 2**53)


class GroupNumbers:
    """Values of a column → numbers from 0, in the order in which they are met."""

    def __init__(self) -> None:
        """Start without a known value."""
        self.values: dict[Any, int] = {}

    def of(self, column: pa.ChunkedArray) -> Groups:
        """The number of each value, a null being one too: (N,) int64."""
        encoded = pc.dictionary_encode(column.combine_chunks(), null_encoding="encode")
        numbers = [self._number(value) for value in encoded.dictionary.to_pylist()]
        indices: Groups = np.asarray(encoded.indices, dtype=np.int64)
        return np.array(numbers, dtype=np.int64)[indices] if len(column) else indices

    def _number(self, value: Any) -> int:
        key = "NaN" if isinstance(value, float) and math.isnan(value) else (type(value), value)
        return self.values.setdefault(key, len(self.values))


class Quotas:
    """Selects the top-k rows of each group.

    Call `count` for all rows, then `settle`, then `choose` for all rows, then `last_places`.
    """

    def __init__(self) -> None:
        """Start without a counted row."""
        self.bins = _MOST_BINS
        self._histogram = np.zeros((1, self.bins), dtype=np.int64)  # (G, bins)
        self._last_bin: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._open: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._undecided = _UNDECIDED.empty_table()

    def count(self, groups: Groups, points: Points) -> None:
        """Count rows: (N,) each."""
        if not len(groups):
            return
        self._make_room(int(groups.max()) + 1)
        cells = groups * self.bins + self._bin_of(points)
        numbers, counts = np.unique(cells, return_counts=True)
        self._histogram.reshape(-1)[numbers] += counts

    def settle(self, places: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> None:
        """Find each group's last bin; `places` maps the rows of each group to the rows taken."""
        wanted = places(self._histogram.sum(axis=1))
        best_first = np.cumsum(self._histogram[:, ::-1], axis=1)  # (G, bins): rows at least as good
        # The first bin from the top with which there are enough; none is wanted of a group without places.
        from_top = (best_first < wanted[:, None]).sum(axis=1)
        before = np.where(from_top > 0, best_first[np.arange(len(wanted)), np.maximum(from_top - 1, 0)], 0)
        self._last_bin = self.bins - 1 - from_top
        self._open = wanted - before
        self._last_bin[wanted == 0] = self.bins

    def choose(self, groups: Groups, points: Points, image_ids: pa.ChunkedArray, places: Groups) -> NDArray[np.bool_]:
        """Mark the rows that are certainly taken; rows of a group's last bin are stored by their places.

        Args:
            groups: (N,) numbers.
            points: (N,) points.
            image_ids: (N,) strings.
            places: (N,) numbers that `last_places` returns.
        """
        bins, last = self._bin_of(points), self._last_bin[groups]
        here = bins == last
        if here.any():
            some = pa.array(here)
            columns = [pa.array(groups[here]), pa.array(points[here]), image_ids.filter(some), pa.array(places[here])]
            self._undecided = pa.concat_tables([self._undecided, pa.table(columns, schema=_UNDECIDED)])
            if len(self._undecided) > max(_MOST_UNDECIDED, 2 * int(self._open.sum())):
                self._undecided = self._winners()
        return bins > last

    def last_places(self) -> Groups:
        """The places of the rows that win the last places of their groups, ascending."""
        return np.sort(np.asarray(self._winners()["place"], dtype=np.int64))

    def _winners(self) -> pa.Table:
        order = [("group", "ascending"), ("points", "descending"), ("image_id", "ascending")]
        ranked = self._undecided.take(pc.sort_indices(self._undecided, order))
        groups = np.asarray(ranked["group"], dtype=np.int64)
        starts = np.flatnonzero(np.diff(groups, prepend=-1))
        rank = np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))
        return ranked.filter(pa.array(rank < self._open[groups])).combine_chunks()

    def _bin_of(self, points: Points) -> NDArray[np.int64]:
        # By a division first and a power of two then, so that halving the bins never moves a row over an edge.
        return np.clip(points / 100 * self.bins, 0, self.bins - 1).astype(np.int64)

    def _make_room(self, groups: int) -> None:
        rows = len(self._histogram)
        if groups <= rows:
            return
        rows = max(groups, 2 * rows)
        while rows * self.bins > _CELLS and self.bins > 1:
            self._histogram = self._histogram[:, ::2] + self._histogram[:, 1::2]
            self.bins //= 2
        grown = np.zeros((rows, self.bins), dtype=np.int64)
        grown[: len(self._histogram)] = self._histogram
        self._histogram = grown


_UNDECIDED: Final = pa.schema(
    [("group", pa.int64()), ("points", pa.float64()), ("image_id", pa.string()), ("place", pa.int64())]
)
