from __future__ import annotations

import numpy as np
import pytest
from bivariate import normal_pairs, tied_pairs
from hypothesis import given
from hypothesis import strategies as st

from jobs.evaluate.metrics.correlation import Extent, Floats, krcc, srcc
from jobs.evaluate.metrics.rank_grid import Axis, RankGrid


def grid_of(scores: Floats, truths: Floats, sample: int, classes: int) -> RankGrid:
    grid = RankGrid(Axis(scores[:sample], classes), Axis(truths[:sample], classes))
    for start in range(0, len(scores), 1000):
        grid.add(scores[start : start + 1000], truths[start : start + 1000])
    return grid


@pytest.mark.parametrize("classes", [16, 256])
@pytest.mark.parametrize("seed", range(3))
def test_continuous_pairs_are_closer_than_the_bound(seed: int, classes: int) -> None:
    scores, truths = normal_pairs(50_000, seed)
    grid = grid_of(scores, truths, 10_000, classes)
    for found, exact in ((grid.srcc(), srcc(scores, truths)), (grid.krcc(), krcc(scores, truths))):
        assert abs(found.value - exact) <= found.error <= 4 / classes
        assert abs(found.value - exact) <= found.error / 10  # what is met; the bound is a promise


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(-9, 9)), min_size=2, max_size=60),
    st.integers(1, 60),
    st.integers(1, 12),
    st.booleans(),
)
def test_the_bound_holds_for_any_pairs_classes_and_sample(
    rows: list[tuple[int, int]], sample: int, classes: int, infinite: bool
) -> None:
    scores, truths = np.array(rows, float).T
    if infinite:
        scores[scores == 30] = np.inf
        truths[truths == -9] = -np.inf
    if Extent.of(scores, truths).rank_problem:
        return
    grid = grid_of(scores, truths, sample, classes)
    for found, exact in ((grid.srcc(), srcc(scores, truths)), (grid.krcc(), krcc(scores, truths))):
        assert abs(found.value - exact) <= found.error + 1e-12


def test_few_values_are_exact() -> None:
    scores, truths = tied_pairs(20_000, seed=0)
    grid = grid_of(scores, truths, 20_000, 4096)
    assert grid.srcc() == pytest.approx((srcc(scores, truths), 0), abs=1e-12)
    assert grid.krcc() == pytest.approx((krcc(scores, truths), 0), abs=1e-12)


def test_a_value_that_is_everywhere_gets_a_class_of_its_own() -> None:
    scores, truths = normal_pairs(20_000, seed=0)
    scores[scores < 0.3] = 0.3
    grid = grid_of(scores, truths, 5_000, 64)
    found = grid.krcc()
    assert abs(found.value - krcc(scores, truths)) <= found.error < 0.06


def test_an_opposite_order_is_minus_one() -> None:
    scores = np.arange(10_000.0)
    grid = grid_of(scores, -scores, 10_000, 512)
    assert grid.srcc().value == pytest.approx(-1, abs=1e-5)
    assert grid.krcc().value == pytest.approx(-1, abs=3e-3)
