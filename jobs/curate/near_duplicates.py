"""Near-duplicates of better-scored pictures, found by their 64-bit perceptual hashes.

Pictures are taken best first. One whose hash differs in at most `distance` bits from that of a picture that is kept
follows the best such picture; otherwise it is kept itself. So no two kept pictures are within the distance, every
other one is within the distance of the one it follows, and nothing is joined through a chain of third pictures.

Pairs within the distance are found by multi-index hashing: the 64 bits are split into three bands. Two hashes that
differ in at most d bits differ in at most r1, r2 or r3 bits in one of them, if (r1 + 1) + (r2 + 1) + (r3 + 1) = d + 1.
So for each band and each pattern of at most that many flipped bits, hashes are joined on equal keys, and only what
meets is compared. For a fixed distance the number of patterns is fixed, and what meets by accident is N²·2^-21 for each
pattern: linear up to some 10^6 pictures, and bent upwards beyond.

A collection of a million pictures of nearly the same hash has 10^11 such pairs. Then the better half is settled first,
the other half is compared with what was kept of it, and so on. What hashes have in common although they are
far apart (a million black frames with a logo) can still fill one key; a picture is compared with a bounded number of
others for each join, the best ones first, and what was left out is counted.

It knows nothing of files, scores or ids.

Source: Norouzi, Punjani, Fleet, "Fast exact search in Hamming space with multi-index hashing", 2014.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from math import comb, inf
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

HASH_BITS: Final = 64
MAX_DISTANCE: Final = 12

_DEFAULTS: Final = (10, 8, 6, 4)
_JOINED_BY_CHANCE: Final = 1e-3

_BANDS: Final = 3
_DIRECT: Final = 2048  # up to so many, all pairs are compared
_FEW_KEPT: Final = 4096  # up to so many kept ones, all are compared
_SLICE: Final = 1 << 20  # comparisons at the same time, which bounds the memory
_PAIRS_EACH: Final = 4  # with more for each picture, halves are settled one after the other
_COMPARED_EACH: Final = 4096  # for each picture, band and number of flipped bits, unless chance alone asks for more
_THREADS: Final = 2

Codes = NDArray[np.uint64]
Places = NDArray[np.int64]
_T = TypeVar("_T")


class _TooManyError(Exception):
    pass


@dataclass
class Followers:
    """The result of `follow_best`.

    Attributes:
        leader: (N,) int64: for each picture the place of the one it follows, its own if it is kept.
        left_out: comparisons that were not made, since too many hashes have a band in common; 0 means exact.
    """

    leader: Places
    left_out: int


def default_distance(pictures: int) -> int:
    """The largest distance at which chance joins fewer than one in a thousand of so many different pictures.

    Half of the bits of a hash are 1 (those above the median). Of the C(64, 32) such hashes, the sum of C(32, k)² for
    2k up to d are within d bits of a given one. That gives 10 bits up to 43,000 pictures, 8 up to 1.3 million, 6 up to
    73 million and 4 beyond. Photos are a little more alike than chance, so it joins slightly more than that.
    """
    for distance in _DEFAULTS:
        near = sum(comb(HASH_BITS // 2, flips) ** 2 for flips in range(distance // 2 + 1))
        if pictures * near / comb(HASH_BITS, HASH_BITS // 2) < _JOINED_BY_CHANCE:
            return distance
    return _DEFAULTS[-1]


def follow_best(codes: Codes, distance: int) -> Followers:
    """Decide which pictures are kept, and which kept picture each of the others follows.

    Args:
        codes: (N,) uint64 hashes, the best picture first.
        distance: bits in which near-duplicates may differ, from 0 to `MAX_DISTANCE`.
    """
    # Equal hashes first: a million copies of one picture are one hash from here on.
    _, first, same = np.unique(codes, return_index=True, return_inverse=True)
    best_first = np.argsort(first)
    places = np.empty(len(first), dtype=np.int64)  # of each distinct hash among the distinct ones, best first
    places[best_first] = np.arange(len(first))
    settling = _Settling(codes[first[best_first]], distance)
    settling.settle(np.arange(len(first)))
    return Followers(first[best_first][settling.leader[places[same]]], settling.left_out)


def hamming(left: Codes, right: Codes) -> NDArray[np.uint8]:
    """The number of bits in which hashes differ, pair by pair."""
    bits: NDArray[np.uint8] = np.bitwise_count(left ^ right)
    return bits


class _Settling:
    """Distinct hashes, best first, that are settled part by part."""

    def __init__(self, codes: Codes, distance: int) -> None:
        self.codes = codes
        self.distance = distance
        self.leader: Places = np.full(len(codes), -1, dtype=np.int64)
        self.left_out = 0
        bands = [_Band(codes, band, (distance + 1 + _BANDS - 1 - band) // _BANDS - 1) for band in range(_BANDS)]
        self.bands = [band for band in bands if band.radius >= 0]

    def settle(self, members: Places) -> None:
        """Settle these, of which none is near to one that is kept already."""
        if len(members) <= _DIRECT:
            codes = self.codes[members]
            near = np.triu(np.bitwise_count(codes[:, None] ^ codes) <= self.distance, 1)  # (M, M)
            better, worse = np.nonzero(near)
            self._follow_pairs(members[better], members[worse], members)
            return
        try:
            better, worse = self._pairs(members)
        except _TooManyError:
            half = len(members) // 2
            self.settle(members[:half])
            kept = members[:half][self.leader[members[:half]] == members[:half]]
            self._follow_kept(members[half:], kept)
            self.settle(members[half:][self.leader[members[half:]] < 0])
        else:
            self._follow_pairs(better, worse, members)

    def _follow_pairs(self, better: Places, worse: Places, members: Places) -> None:
        """Settle members whose near pairs are all known."""
        leader = self.leader
        order = np.lexsort((worse, better))
        better, worse = better[order], worse[order]
        starts = np.flatnonzero(np.diff(better, prepend=-1))
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(better)], strict=False):
            best = better[start]
            if leader[best] < 0:  # it follows nobody, so it is kept, and its unsettled neighbours follow it
                others = worse[start:end]
                leader[others[leader[others] < 0]] = best
        free = members[leader[members] < 0]
        leader[free] = free

    def _pairs(self, members: Places) -> tuple[Places, Places]:
        """All near pairs of members, perhaps more than once. Raises _TooManyError."""
        pairs_left = _PAIRS_EACH * len(members)
        found = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))]
        for band in self.bands:
            table = _KeyTable(band, members)
            most = len(members) * sum(2 * table.fair_share(size) for size in range(band.radius + 1))

            def near(
                pattern: int, table: _KeyTable = table, most: float = most, pairs: int = pairs_left
            ) -> tuple[int, Places, Places]:
                join = table.join(table, pattern)
                if join.comparisons > most:
                    raise _TooManyError
                left, right = join.near(self.distance, most=pairs)
                return join.comparisons, np.minimum(left, right), np.maximum(left, right)

            for comparisons, better, worse in _in_threads(near, band.patterns()):
                most -= comparisons
                pairs_left -= len(better)
                if most < 0 or pairs_left < 0:
                    raise _TooManyError
                found.append((better, worse))
        return np.concatenate([better for better, _ in found]), np.concatenate([worse for _, worse in found])

    def _follow_kept(self, members: Places, kept: Places) -> None:
        """Make each member follow the best kept one near it."""
        if len(kept) <= _FEW_KEPT:
            step = max(1, _SLICE // len(kept))
            for start in range(0, len(members), step):
                some = members[start : start + step]
                near = np.bitwise_count(self.codes[some][:, None] ^ self.codes[kept]) <= self.distance
                followed = near.any(axis=1)
                self.leader[some[followed]] = kept[near[followed].argmax(axis=1)]
            return
        nobody = len(self.codes)
        best = np.full(nobody, nobody, dtype=np.int64)
        for band in self.bands:
            asking, table = _KeyTable(band, members), _KeyTable(band, kept)

            def near(pattern: int, asking: _KeyTable = asking, table: _KeyTable = table) -> tuple[int, Places, Places]:
                join = table.join(asking, pattern, most=table.fair_share(pattern.bit_count()))
                return join.left_out, *join.near(self.distance)

            for left_out, followers, leaders in _in_threads(near, band.patterns()):
                self.left_out += left_out
                np.minimum.at(best, followers, leaders)
        followed = members[best[members] < nobody]
        self.leader[followed] = best[followed]


class _Band:
    """Every third bit of the hashes: neighbours are much alike, since frequencies next to each other are.

    Attributes:
        codes: (N,) uint64, all hashes.
        bits: of a key.
        radius: how many of them may be flipped; -1 if hashes need not meet in this band.
        keys: (N,) int64.
    """

    def __init__(self, codes: Codes, band: int, radius: int) -> None:
        positions = range(band, HASH_BITS, _BANDS)
        self.codes = codes
        self.bits = len(positions)
        self.radius = radius
        self.keys = np.zeros(len(codes), dtype=np.int64)
        for place, position in enumerate(positions):
            self.keys |= (codes >> np.uint64(position) & np.uint64(1)).astype(np.int64) << place

    def patterns(self) -> list[int]:
        """The patterns of at most `radius` flipped bits, fewest first."""
        sizes = range(self.radius + 1)
        return [sum(1 << bit for bit in bits) for size in sizes for bits in combinations(range(self.bits), size)]


class _KeyTable:
    """Some of the hashes in the order of their keys in one band, of equal ones the best first.

    Attributes:
        places: (M,) int64, of the hashes among all.
        codes: (M,) uint64.
        keys: (M,) int64.
    """

    def __init__(self, band: _Band, places: Places) -> None:
        keys = band.keys[places]
        order = np.argsort(keys, kind="stable")
        self.bits = band.bits
        self.places = places[order]
        self.codes = band.codes[self.places]
        self.keys = keys[order]
        # For each key, and one more, how many are smaller: repeated from hash to hash, which takes a millisecond where
        # a cumulative sum of the counts of all 2^22 keys takes 20.
        steps = np.diff(self.keys, prepend=-1, append=1 << band.bits)
        self._starts = np.repeat(np.arange(len(steps), dtype=np.int32), steps)

    def fair_share(self, size: int) -> int:
        """Most comparisons of one hash for each pattern of that many flipped bits."""
        by_chance = len(self.places) / (1 << self.bits)
        return int(16 + 16 * by_chance + _COMPARED_EACH / comb(self.bits, size))

    def join(self, asking: _KeyTable, pattern: int, most: int | None = None) -> _Join:
        """Those of another table with those of this one whose keys differ in just these bits; of itself, once."""
        alone = asking is self
        if alone and pattern == 0:
            lefts = np.arange(len(self.places))
            starts, ends = lefts + 1, self._starts[self.keys + 1]
        else:
            # A pair of one table meets twice, and this takes the side that has no 1 in the lowest flipped bit.
            lefts = np.flatnonzero(asking.keys & (pattern & -pattern) == 0) if alone else np.arange(len(asking.places))
            keys = asking.keys[lefts] ^ pattern
            starts, ends = self._starts[keys], self._starts[keys + 1]
        counts = ends - starts
        left_out = 0
        if most is not None:
            left_out = int(np.maximum(counts - most, 0).sum())
            counts = np.minimum(counts, most)
        some = np.flatnonzero(counts)
        return _Join(asking, self, lefts[some], starts[some].astype(np.int64), counts[some].astype(np.int64), left_out)


@dataclass(frozen=True)
class _Join:
    """Pairs to compare: the hash at `lefts[i]` of one table with `counts[i]` of the other from `starts[i]` on."""

    asking: _KeyTable
    table: _KeyTable
    lefts: Places
    starts: Places
    counts: Places
    left_out: int

    @property
    def comparisons(self) -> int:
        return int(self.counts.sum())

    def near(self, distance: int, most: float = inf) -> tuple[Places, Places]:
        """The pairs of places whose hashes differ in at most that many bits. Raises _TooManyError if there are more."""
        found = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))]
        for left, right in self._slices():
            near = hamming(self.asking.codes[left], self.table.codes[right]) <= distance
            found.append((self.asking.places[left[near]], self.table.places[right[near]]))
            most -= len(found[-1][0])
            if most < 0:
                raise _TooManyError
        return np.concatenate([left for left, _ in found]), np.concatenate([right for _, right in found])

    def _slices(self) -> Iterator[tuple[Places, Places]]:
        """The positions to compare, about `_SLICE` at a time."""
        ends = np.cumsum(self.counts)
        done = 0
        while done < len(ends):
            before = int(ends[done - 1]) if done else 0
            until = max(done + 1, int(np.searchsorted(ends, before + _SLICE, side="right")))
            counts = self.counts[done:until]
            left = np.repeat(self.lefts[done:until], counts)
            # Runs of ascending numbers, one for each count.
            offsets = np.arange(len(left)) - np.repeat(ends[done:until] - counts - before, counts)
            yield left, np.repeat(self.starts[done:until], counts) + offsets
            done = until


def _in_threads(work: Callable[[int], _T], patterns: list[int]) -> Iterator[_T]:
    """The results in order, few of them ahead of the one that is used; numpy lets other threads run meanwhile."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(patterns), _THREADS):
            yield from pool.map(work, patterns[start : start + _THREADS])
