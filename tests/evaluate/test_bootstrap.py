from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from support.bivariate import normal_pairs, tied_pairs

from jobs.evaluate.metrics.bootstrap import (
    FULL_PAIRS,
    SUBSAMPLE_PAIRS,
    Drawable,
    Resampling,
    percentiles,
    resample,
    resampling,
)
from jobs.evaluate.metrics.correlation import krcc, plcc, srcc
from jobs.evaluate.metrics.estimate import BOOTSTRAP, JACKKNIFE, M_OUT_OF_N
from jobs.evaluate.metrics.jackknife import MOST_BLOCKS
from jobs.evaluate.metrics.units import Units


@pytest.mark.parametrize(("n", "count"), [(5, 5), (300, 300), (30_000, 200)])
def test_a_resample_has_the_metrics_that_scipy_finds_for_its_rows(n: int, count: int) -> None:
    scores, truths = tied_pairs(n, seed=n)
    mapped = np.sqrt(scores)
    pairs = Drawable(scores, truths, {"plcc_logistic4": mapped})
    drawn = np.random.default_rng(0).integers(0, n, count)
    scores, truths, mapped = scores[drawn], truths[drawn], mapped[drawn]
    assert pairs.metrics(drawn) == pytest.approx(
        {
            "srcc": srcc(scores, truths),
            "krcc": krcc(scores, truths),
            "plcc": plcc(scores, truths),
            "plcc_logistic4": plcc(mapped, truths),
        },
        abs=1e-12,
    )


def test_few_units_are_left_out_in_turn_and_many_pairs_are_drawn_in_part() -> None:
    for n, interval, drawn in (
        (0, JACKKNIFE, 0),
        (MOST_BLOCKS, JACKKNIFE, MOST_BLOCKS),
        (MOST_BLOCKS + 1, BOOTSTRAP, MOST_BLOCKS + 1),
        (FULL_PAIRS, BOOTSTRAP, FULL_PAIRS),
        (FULL_PAIRS + 1, M_OUT_OF_N, SUBSAMPLE_PAIRS),
    ):
        assert resampling(Units(n))[1:] == (drawn, interval)
    assert resampling(Units(200_000, np.arange(200_000) // 500))[1:] == (200, M_OUT_OF_N)
    assert resampling(Units(200_000, np.arange(200_000) // 5000))[1:] == (40, JACKKNIFE)


def test_deviations_of_a_subsample_are_scaled_about_the_value_of_all_pairs() -> None:
    plan = Resampling(Units(500_000), 20_000, M_OUT_OF_N)
    np.testing.assert_allclose(plan.scale(0.8, np.array([0.7, 0.8, 1.0, np.nan])), [0.78, 0.8, 0.84, np.nan])


def test_two_sets_draw_the_same_rows() -> None:
    scores, truths = normal_pairs(50, seed=0)
    plan = Resampling(Units(50), 50, BOOTSTRAP)
    one, two = resample([Drawable(scores, truths, {}), Drawable(2 * scores, truths, {})], plan, 0, 20)
    np.testing.assert_allclose(one["srcc"], two["srcc"], rtol=0, atol=0)
    np.testing.assert_allclose(one["plcc"], two["plcc"], rtol=1e-12)


def test_clusters_are_drawn_whole() -> None:
    generator = np.random.default_rng(0)
    clusters = generator.permutation(np.repeat([7, 3, 9], [2, 3, 4]))
    units = Units(9, clusters)
    assert units.count == 3
    rows = units.rows(np.array([2, 0, 2]))  # clusters 9, 3 and 9 again
    assert clusters[rows].tolist() == [9] * 4 + [3] * 3 + [9] * 4
    assert sorted(rows[:4]) == sorted(rows[7:]) == np.flatnonzero(clusters == 9).tolist()


@pytest.mark.parametrize("clusters", [None, np.arange(1000) // 2])
def test_lots_of_many_units_hold_each_pair_once(clusters: NDArray[np.int64] | None) -> None:
    blocks = list(Units(1000, clusters).blocks(30, seed=4))
    assert len(blocks) == 30
    assert sorted(np.concatenate(blocks).tolist()) == list(range(1000))
    if clusters is not None:
        assert all(len(np.unique(clusters[block])) * 2 == len(block) for block in blocks)


def test_resamples_without_a_value_leave_no_interval_when_they_are_many() -> None:
    values = np.linspace(0, 1, 100)
    values[:5] = np.nan
    assert isinstance(percentiles(values, 0.9), tuple)
    values[:6] = np.nan
    assert percentiles(values, 0.9) == ("6 of 100 resamples have no value: too few pairs, or too few different ones.")


def test_infinities_leave_the_rank_metrics() -> None:
    scores, truths = normal_pairs(30, seed=0)
    scores[3] = np.inf
    assert set(Drawable(scores, truths, {}).metrics(np.arange(30))) == {"srcc", "krcc"}
