from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artimuse_actor.errors import UsageError
from jobs.curate import quotas
from jobs.curate.quotas import (
    SCORE_BINS,
    GroupNumbers,
    Quotas,
    Top,
    random_points,
    read_top,
    shares_of_sample,
    strata,
)

_rows = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.one_of(st.sampled_from([0.0, 64.0, 64.5, 100.0]), st.floats(-5, 105, width=32)),
        st.text(max_size=4),
    ),
    max_size=60,
)
_tops = st.one_of(
    st.integers(1, 70).map(str), st.integers(1, 100).map("{}%".format), st.sampled_from(["0.5%", "33.3%", "99.9%"])
)


def best_by_sorting(rows: list[tuple[int, float, str]], top: Top) -> set[int]:
    """Places of the best of each group: the higher score first, of equal ones the smaller id in order of bytes."""
    chosen: set[int] = set()
    for group in {group for group, _, _ in rows}:
        mine = [place for place, row in enumerate(rows) if row[0] == group]
        mine.sort(key=lambda place: (-rows[place][1], rows[place][2].encode()))
        share = top.share if top.share is not None else Fraction(0)
        chosen.update(mine[: top.count if top.count is not None else math.ceil(len(mine) * share)])
    return chosen


def best_by_quotas(rows: list[tuple[int, float, str]], top: Top, batch: int) -> set[int]:
    batches = [range(start, min(len(rows), start + batch)) for start in range(0, len(rows), batch)]
    found, chosen = Quotas(), set()

    def columns(places: range) -> tuple[np.ndarray, np.ndarray]:
        return np.array([rows[p][0] for p in places], dtype=np.int64), np.array([rows[p][1] for p in places])

    for places in batches:
        found.count(*columns(places))
    found.settle(top.places)
    for places in batches:
        ids = pa.chunked_array([pa.array([rows[place][2] for place in places], pa.string())])
        taken = found.choose(*columns(places), ids, np.array(places, dtype=np.int64))
        chosen.update(np.array(places)[taken].tolist())
    return chosen | set(found.last_places().tolist())


def _unique_ids(rows: list[tuple[int, float, str]]) -> list[tuple[int, float, str]]:
    return list({row[2]: row for row in rows}.values())


@given(_rows, _tops, st.integers(1, 20))
def test_the_best_of_each_group_are_those_of_a_plain_sort(
    rows: list[tuple[int, float, str]], text: str, batch: int
) -> None:
    rows = _unique_ids(rows)
    assert best_by_quotas(rows, read_top(text), batch) == best_by_sorting(rows, read_top(text))


@settings(max_examples=30)
@given(_rows, _tops, st.integers(1, 20))
def test_few_bins_and_little_memory_change_nothing(rows: list[tuple[int, float, str]], text: str, batch: int) -> None:
    rows = _unique_ids(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quotas, "_CELLS", 4)
        patch.setattr(quotas, "_MOST_UNDECIDED", 2)
        assert best_by_quotas(rows, read_top(text), batch) == best_by_sorting(rows, read_top(text))


def test_many_groups_share_the_memory_of_the_histogram() -> None:
    generator = np.random.default_rng(0)
    groups, points = generator.integers(0, 300_000, 400_000), generator.uniform(0, 100, 400_000)
    found = Quotas()
    found.count(groups, points)
    assert found._histogram.size <= 2 * quotas._CELLS
    found.settle(read_top("1").places)
    ids = pa.chunked_array([pa.array([f"{number:06}" for number in range(400_000)])])
    taken = found.choose(groups, points, ids, np.arange(400_000))
    chosen = np.concatenate([np.flatnonzero(taken), found.last_places()])
    best = np.zeros(300_000)
    np.maximum.at(best, groups, points)
    assert sorted(points[chosen]) == sorted(best[np.unique(groups)])


@pytest.mark.parametrize("text", ["110%", "0", "0%", "-5", "ten", "1e3", "5.5", "%", "100.1%"])
def test_a_top_that_means_nothing_gets_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="--top"):
        read_top(text)


def test_a_share_is_rounded_up_exactly() -> None:
    assert read_top("10%").places(np.array([0, 1, 10, 25, 10**15])).tolist() == [0, 1, 1, 3, 10**14]
    assert read_top("100%").places(np.array([7])).tolist() == [7]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20), st.integers(1, 3000))
def test_a_sample_is_spread_in_proportion(counts: list[int], size: int) -> None:
    rows = np.array(counts)
    shares = shares_of_sample(size, rows)
    total = int(rows.sum())
    assert shares.sum() == min(size, total)
    assert (shares <= rows).all()
    if total:
        assert (np.abs(shares - rows * min(size, total) / total) < 1).all()


def test_random_points_depend_on_id_and_seed_alone() -> None:
    ids = pa.chunked_array([["a", "b"], ["c"]])
    points = random_points(ids, 7)
    assert points.tolist() == random_points(ids.combine_chunks(), 7).tolist()
    # Written down: another pandas must not draw another sample.
    assert points.round(6).tolist() == [14.918546, 34.913392, 8.609752]
    assert set(points.tolist()).isdisjoint(random_points(ids, 8).tolist())
    many = random_points(pa.chunked_array([[str(number) for number in range(20_000)]]), 0)
    assert 0 <= many.min() < many.max() < 100
    assert abs(many.mean() - 50) < 1


def test_strata_are_five_points_wide() -> None:
    found = strata(np.array([-1.0, 0.0, 4.99, 5.0, 99.9, 100.0, 120.0]))
    assert found.tolist() == [0, 0, 0, 1, SCORE_BINS - 1, SCORE_BINS - 1, SCORE_BINS - 1]


def test_groups_keep_their_numbers_whatever_their_type() -> None:
    numbers = GroupNumbers()
    first = numbers.of(pa.chunked_array([[1.0, None, float("nan")], [2.0]]))
    assert numbers.of(pa.chunked_array([[float("nan"), 2.0, None, 1.0]])).tolist() == first[[2, 3, 1, 0]].tolist()
    assert numbers.of(pa.chunked_array([pa.array([], pa.float64())])).tolist() == []
    assert len(numbers.values) == 4
