from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artimuse_actor.errors import UsageError
from jobs.curate.quotas import (
    SCORE_BINS,
    Top,
    best_rows,
    random_points,
    read_top,
    shares_of_sample,
    stratum,
)
from jobs.store.database import ROW, Database, open_database

_rows = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.one_of(st.sampled_from([0.0, 64.0, 64.5, 100.0]), st.floats(-5, 105, width=32)),
        st.text(max_size=4),
    ),
    max_size=60,
)
_RANKED = ["row", "held", "grp", "points"]
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


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with open_database() as found:
        yield found


def best_by_quotas(database: Database, rows: list[tuple[int, float, str]], top: Top) -> set[int]:
    groups, points, ids = ([row[column] for row in rows] for column in range(3))
    places = pa.array(range(len(rows)), pa.int64())
    ranked = {
        "row": places,
        "held": places,
        "grp": pa.array(groups, pa.int64()),
        "points": pa.array(points, pa.float64()),
    }
    database.add_rows("ranked", pa.table(ranked))
    database.add_rows("scores", pa.table({ROW: places, "image_id": pa.array(ids, pa.string())}))
    return {row for (row,) in database.rows(best_rows(database, "ranked", top.places))}


def _unique_ids(rows: list[tuple[int, float, str]]) -> list[tuple[int, float, str]]:
    return list({row[2]: row for row in rows}.values())


@pytest.mark.slow
@settings(deadline=None)
@given(rows=_rows, text=_tops)
def test_the_best_of_each_group_are_those_of_a_plain_sort(
    database: Database, rows: list[tuple[int, float, str]], text: str
) -> None:
    rows = _unique_ids(rows)
    assert best_by_quotas(database, rows, read_top(text)) == best_by_sorting(rows, read_top(text))


def test_null_and_nan_are_groups_too(database: Database) -> None:
    groups = [None, float("nan"), 1.0, None, float("nan")]
    places = pa.array(range(5), pa.int64())
    points = pa.array([1.0, 2.0, 3.0, 4.0, 5.0])
    database.add_rows("ranked", pa.table([places, places, pa.array(groups), points], _RANKED))
    database.add_rows("scores", pa.table({ROW: places, "image_id": ["a", "b", "c", "d", "e"]}))
    assert {row for (row,) in database.rows(best_rows(database, "ranked", read_top("1").places))} == {2, 3, 4}


@pytest.mark.parametrize("text", ["110%", "0", "0%", "-5", "ten", "1e3", "5.5", "%", "100.1%"])
def test_a_top_that_means_nothing_gets_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="--top"):
        read_top(text)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("10%", {0: 0, 1: 1, 10: 1, 25: 3, 10**15: 10**14}),
        ("100%", {7: 7}),
        ("33.3%", {1000: 333, 1001: 334}),
        ("5", {3: 3}),
    ],
)
def test_a_share_is_rounded_up_exactly(database: Database, text: str, rows: dict[int, int]) -> None:
    for total, places in rows.items():
        assert database.rows(f"SELECT {read_top(text).places} FROM (SELECT {total}::HUGEINT AS total)") == [(places,)]


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


def test_strata_are_five_points_wide(database: Database) -> None:
    points = {-1.0: 0, 0.0: 0, 4.99: 0, 5.0: 1, 99.9: SCORE_BINS - 1, 100.0: SCORE_BINS - 1, 120.0: SCORE_BINS - 1}
    database.add_rows("ranked", pa.table({"points": list(points)}))
    assert [place for (place,) in database.rows(f"SELECT {stratum('points')} FROM ranked")] == list(points.values())
