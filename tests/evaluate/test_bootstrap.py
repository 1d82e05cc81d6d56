from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from support.bivariate import TRUE, covered, normal_pairs, tied_pairs

from jobs.evaluate.metrics.bootstrap import (
    FULL_PAIRS,
    SUBSAMPLE_PAIRS,
    Drawable,
    percentiles,
    resample,
    resampling,
    two_sided_p,
)
from jobs.evaluate.metrics.correlation import krcc, plcc, srcc


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    inside: dict[str, int] = {}
    for seed in range(200):
        scores, truths = normal_pairs(120, seed)
        [found] = resample([Drawable(scores, truths, {})], resampling(120), seed, 150)
        ends = {metric: percentiles(found[metric], 0.95) for metric in TRUE}
        covered(inside, {metric: end for metric, end in ends.items() if not isinstance(end, str)})
    for metric in ("srcc", "plcc", "krcc"):
        assert 184 <= inside[metric] <= 196, inside
    assert min(inside["rmse"], inside["mae"]) >= 176, inside  # the residuals of a fit are too small by 1 in 120


@pytest.mark.parametrize(("n", "count"), [(5, 5), (300, 300), (30_000, 200)])
def test_a_resample_has_the_metrics_that_scipy_finds_for_its_rows(n: int, count: int) -> None:
    scores, truths = tied_pairs(n, seed=n)
    mapped = np.sqrt(scores)
    pairs = Drawable(scores, truths, {"plcc_logistic4": mapped})
    drawn = np.random.default_rng(0).integers(0, n, count)
    scores, truths, mapped = scores[drawn], truths[drawn], mapped[drawn]
    slope, intercept = stats.linregress(scores, truths)[:2]
    errors = truths - slope * scores - intercept
    assert pairs.metrics(drawn) == pytest.approx(
        {
            "srcc": srcc(scores, truths),
            "krcc": krcc(scores, truths),
            "plcc": plcc(scores, truths),
            "rmse": np.sqrt(np.mean(errors**2)),
            "mae": np.mean(np.abs(errors)),
            "plcc_logistic4": plcc(mapped, truths),
        },
        abs=1e-12,
    )


def test_up_to_100_000_pairs_a_resample_draws_as_many() -> None:
    assert [resampling(n).drawn for n in (0, 5, FULL_PAIRS, FULL_PAIRS + 1)] == [0, 5, FULL_PAIRS, SUBSAMPLE_PAIRS]


def test_deviations_of_a_subsample_are_scaled_about_the_value_of_all_pairs() -> None:
    plan = resampling(25 * SUBSAMPLE_PAIRS)
    np.testing.assert_allclose(plan.scale(0.8, np.array([0.7, 0.8, 1.0, np.nan])), [0.78, 0.8, 0.84, np.nan])


def test_two_sets_draw_the_same_rows() -> None:
    scores, truths = normal_pairs(50, seed=0)
    one, two = resample([Drawable(scores, truths, {}), Drawable(2 * scores, truths, {})], resampling(50), 0, 20)
    np.testing.assert_allclose(one["srcc"], two["srcc"], rtol=0, atol=0)
    np.testing.assert_allclose(one["mae"], two["mae"], rtol=1e-12)


def test_resamples_without_a_value_leave_no_interval_when_they_are_many() -> None:
    values = np.linspace(0, 1, 100)
    values[:5] = np.nan
    assert isinstance(percentiles(values, 0.9), tuple)
    values[:6] = np.nan
    assert percentiles(values, 0.9) == ("6 of 100 resamples have no value: too few pairs, or too few different ones.")


def test_p_values_count_the_rarer_side_twice() -> None:
    assert two_sided_p(np.array([-1.0] + [1.0] * 98)) == pytest.approx(0.04)
    assert two_sided_p(np.ones(99)) == pytest.approx(0.02)
    assert two_sided_p(np.zeros(99)) == 1


def test_infinities_leave_the_rank_metrics() -> None:
    scores, truths = normal_pairs(30, seed=0)
    scores[3] = np.inf
    assert set(Drawable(scores, truths, {}).metrics(np.arange(30))) == {"srcc", "krcc"}
