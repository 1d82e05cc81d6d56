from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support.bivariate import TRUE, covered, normal_pairs, tied_pairs

from bench.tables.coverage import of_clusters
from jobs.evaluate.metrics import bootstrap
from jobs.evaluate.metrics.accuracy import accuracy
from jobs.evaluate.metrics.agreement import measure_agreement, measure_differences
from jobs.evaluate.metrics.correlation import Floats, Moments, krcc, plcc, srcc
from jobs.evaluate.metrics.estimate import BOOTSTRAP, CORRELATIONS, M_OUT_OF_N, Agreement, Difference, Estimate
from jobs.evaluate.metrics.intervals import Resamples
from jobs.evaluate.metrics.jackknife import error_intervals
from jobs.evaluate.metrics.units import Units

NUMBERS = st.one_of(st.integers(-2, 2).map(float), st.floats(allow_nan=True, allow_infinity=True))
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=12)


def estimates(found: Agreement) -> dict[str, Estimate]:
    return {metric: getattr(found, metric) for metric in (*CORRELATIONS, "rmse", "mae")}


def measure_difference(first: Floats, second: Floats, truths: Floats, **options: Any) -> Difference:
    return measure_differences([first, second], truths, **options)[0, 1]


@pytest.mark.slow
def test_pairs_with_a_null_are_left_out_and_counted() -> None:
    scores, truths = normal_pairs(300, seed=0)
    kept = measure_agreement(scores[2:], truths[2:])
    scores[0], truths[1] = np.nan, np.nan
    found = measure_agreement(scores, truths)
    assert (found.n, found.dropped) == (298, 2)
    assert estimates(found) == estimates(kept)


def test_values_intervals_and_their_making_are_named() -> None:
    scores, truths = normal_pairs(500, seed=0)
    found = measure_agreement(50 + 10 * scores, truths, seed=3, resamples=200, confidence=0.9)
    assert (found.interval, found.resample_units, found.clusters) == (BOOTSTRAP, 500, None)
    assert (found.seed, found.resamples, found.confidence) == (3, 200, 0.9)
    for metric, estimate in estimates(found).items():
        assert estimate.value is not None
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low < estimate.value < estimate.high, metric
        assert estimate.value == pytest.approx(TRUE.get(metric, TRUE["plcc"]), abs=0.06)
    line = stats.linregress(50 + 10 * scores, truths)
    assert (found.slope, found.intercept) == pytest.approx((line.slope, line.intercept))
    assert found.accuracy is None


@pytest.mark.parametrize("limit", [100_000, 0])
def test_the_same_pairs_and_seed_give_the_same_bytes(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "FULL_PAIRS", limit)
    scores, truths = tied_pairs(400, seed=0)
    found = [measure_agreement(scores, truths, seed=5, resamples=50, truth_threshold=1.0) for _ in range(2)]
    assert repr(found[0]) == repr(found[1])
    differences = [measure_difference(scores, np.sqrt(scores), truths, seed=5, resamples=50) for _ in range(2)]
    assert repr(differences[0]) == repr(differences[1])


@pytest.mark.slow
@pytest.mark.parametrize(("most_blocks", "limit"), [(200, 100_000), (4, 100_000), (4, 0)])
@given(rows=ROWS, by_clusters=st.booleans())
@settings(max_examples=40, deadline=None)
def test_nothing_is_nan_and_every_none_has_a_reason(
    rows: list[tuple[float, float, float]], by_clusters: bool, most_blocks: int, limit: int
) -> None:
    clusters = np.arange(len(rows)) // 2 if by_clusters else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "MOST_BLOCKS", most_blocks)
        patch.setattr(bootstrap, "FULL_PAIRS", limit)
        first, second, truths = np.array(rows, float).reshape(-1, 3).T
        found = measure_agreement(
            first, truths, clusters=clusters, resamples=20, truth_threshold=0.0, score_threshold=0.0
        )
        difference = measure_difference(first, second, truths, clusters=clusters, resamples=20)
    assert found.n + found.dropped == len(rows)
    assert (found.base_rate is None) == (found.n == 0)
    estimates_made = (*estimates(found).values(), found.accuracy, found.accuracy_direct)
    for estimate in (*estimates_made, difference.srcc, difference.plcc, difference.krcc):
        assert estimate is not None
        names = [field.name for field in fields(estimate) if field.name not in ("reason", "p_corrected")]
        numbers = [getattr(estimate, name) for name in names]
        assert (None in numbers) == (estimate.reason is not None), estimate
        assert all(number is None or np.isfinite(number) for number in numbers), estimate


@pytest.mark.slow
def test_intervals_of_subsamples_are_those_of_the_full_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, truths = tied_pairs(8000, seed=1)
    full = estimates(measure_agreement(scores, truths, resamples=500))
    monkeypatch.setattr(bootstrap, "FULL_PAIRS", 0)
    monkeypatch.setattr(bootstrap, "SUBSAMPLE_PAIRS", 2000)
    scaled = measure_agreement(scores, truths, resamples=500)
    assert (scaled.interval, scaled.resamples, scaled.resample_units) == (M_OUT_OF_N, 500, 2000)
    for metric, one in estimates(scaled).items():
        other = full[metric]
        assert one.value == other.value
        assert one.low is not None
        assert one.high is not None
        # An end of a percentile interval from 500 resamples is known to about 5% of its width.
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.15 * (one.high - one.low)), metric


@pytest.mark.slow
def test_intervals_of_subsamples_hold_the_truth_about_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "FULL_PAIRS", 0)
    monkeypatch.setattr(bootstrap, "SUBSAMPLE_PAIRS", 200)
    inside: dict[str, int] = {}
    for seed in range(120):
        scores, truths = normal_pairs(1000, seed)
        plan = bootstrap.resampling(Units(1000))
        [found] = bootstrap.resample([bootstrap.Drawable(scores, truths, {})], plan, seed, 100)
        values = {"srcc": srcc(scores, truths), "krcc": krcc(scores, truths), "plcc": plcc(scores, truths)}
        scaled = {metric: plan.scale(value, found[metric]) for metric, value in values.items()}
        ends = {metric: bootstrap.percentiles(drawn, 0.95) for metric, drawn in scaled.items()}
        covered(inside, {metric: end for metric, end in ends.items() if not isinstance(end, str)})
    for metric in ("srcc", "krcc", "plcc"):
        # Of 95% intervals, fewer hold it with a chance of 1 in 10,000, and all of them with one of 1 in 500.
        assert 104 <= inside[metric] <= 119, inside


@pytest.mark.slow
def test_pairs_so_many_that_their_products_pass_32_bits_give_scipys_values() -> None:
    scores, truths = tied_pairs(200_000, seed=0)
    found = measure_agreement(scores, truths, resamples=20)
    assert found.interval == M_OUT_OF_N
    assert found.srcc.value == pytest.approx(stats.spearmanr(scores, truths).statistic, abs=1e-9)
    assert found.plcc.value == pytest.approx(stats.pearsonr(scores, truths).statistic, abs=1e-9)
    assert found.krcc.value == pytest.approx(stats.kendalltau(scores, truths).statistic, abs=1e-9)


def test_two_pairs_have_values_without_intervals() -> None:
    found = measure_agreement(np.array([1.0, 2.0]), np.array([5.0, 3.0]))
    assert (found.srcc.value, found.krcc.value, found.plcc.value) == pytest.approx((-1, -1, -1))
    assert found.srcc.low is None
    assert found.srcc.reason is not None
    assert found.srcc.reason == "An interval needs 5 pairs or more; there are 2."
    assert found.plcc_logistic4.value is None


def test_accuracy_counts_pairs_on_the_same_side() -> None:
    scores, truths = np.array([40.0, 50.0, 60.0, 70.0]), np.array([4.0, 5.0, 4.5, 7.0])
    found = measure_agreement(scores, truths, truth_threshold=5.0, score_threshold=50.0)
    direct, mapped = found.accuracy_direct, found.accuracy
    assert direct is not None
    assert (direct.value, direct.low, direct.high) == pytest.approx((0.75, 0.3006, 0.9544), abs=1e-4)
    assert mapped is not None
    assert mapped.value == 0.75  # the line passes 5 at 53.9 points
    assert found.base_rate == 0.75  # a truth of 5 is not above 5


def test_the_accuracy_of_clusters_has_the_interval_of_the_pairs_that_they_are_worth() -> None:
    clusters = np.repeat(np.arange(20), 50)
    truths = np.tile([1.0, 2.0], 500)
    alike = np.where(clusters % 4 > 0, truths, 3 - truths)  # each cluster right or wrong as a whole
    found = measure_agreement(alike, truths, clusters=clusters, truth_threshold=1.5, score_threshold=1.5)
    single = measure_agreement(
        alike[::50], truths[::50], truth_threshold=1.5, score_threshold=1.5, confidence=0.95
    ).accuracy_direct
    assert found.accuracy_direct is not None
    assert single is not None
    assert found.accuracy_direct.value == single.value == 0.75
    ends, of_twenty = [(one.low, one.high) for one in (found.accuracy_direct, single)]
    assert ends == pytest.approx(of_twenty, abs=0.02)


def test_accuracy_without_a_linear_mapping_asks_for_a_threshold() -> None:
    scores, truths = np.array([40.0, np.inf]), np.array([4.0, 5.0])
    missing = measure_agreement(scores, truths, truth_threshold=5.0).accuracy
    assert missing is not None
    assert missing.reason is not None
    assert "give a threshold" in missing.reason
    given = measure_agreement(scores, truths, truth_threshold=4.5, score_threshold=50.0).accuracy_direct
    assert given is not None
    assert given.value == 1


def two_scorers(n: int, seed: int, noise: float) -> tuple[Floats, Floats, Floats]:
    """Two sets of scores that follow the truth, the second with this much noise where the first has 1."""
    truths, first, second = np.random.default_rng(seed).normal(size=(3, n))
    return truths + first, truths + noise * second, truths


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 50, 300])
def test_a_difference_that_is_none_is_seldom_found(n: int) -> None:
    found = [measure_difference(*two_scorers(n, seed, 1.0), seed=seed, resamples=99) for seed in range(60)]
    for metric in ("srcc", "plcc", "krcc"):
        differences = [getattr(difference, metric) for difference in found]
        assert sum(difference.p_value < 0.05 for difference in differences) <= 8
        assert sum(difference.low <= 0 <= difference.high for difference in differences) >= 52


@pytest.mark.parametrize("limit", [100_000, 0])
def test_a_better_scorer_is_found(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "FULL_PAIRS", limit)
    found = measure_difference(*two_scorers(500, 0, 0.5), resamples=199)
    for metric in (found.srcc, found.plcc, found.krcc):
        assert metric.value is not None
        assert metric.low is not None
        assert metric.high is not None
        assert metric.p_value is not None
        assert metric.low < metric.value < metric.high < 0
        assert metric.first is not None
        assert metric.second is not None
        assert metric.value == metric.first - metric.second
        assert metric.p_value < 1e-4  # of 199 resamples, none of which could count so far


@pytest.mark.parametrize("n", [100, 300])
def test_scores_do_not_differ_from_themselves(n: int) -> None:
    scores, truths = normal_pairs(n, seed=0)
    found = measure_difference(scores, scores, truths, resamples=50)
    assert (found.srcc.value, found.srcc.low, found.srcc.high, found.srcc.p_value) == (0, 0, 0, 1)


def test_a_difference_uses_the_rows_that_all_three_have() -> None:
    scores, truths = normal_pairs(100, seed=0)
    other = scores + 1
    scores[0], other[1], truths[2] = np.nan, np.nan, np.nan
    found = measure_difference(scores, other, truths, resamples=50)
    assert (found.n, found.dropped) == (97, 3)


def test_three_sets_are_compared_on_the_rows_that_all_have() -> None:
    truths, first, second = two_scorers(60, 0, 0.5)[::-1]
    third = np.where(np.arange(60) < 50, first, np.nan)
    found = measure_differences([first, second, third], truths)
    assert list(found) == [(0, 1), (0, 2), (1, 2)]
    assert {difference.n for difference in found.values()} == {50}
    alone = measure_difference(first[:50], second[:50], truths[:50])
    assert found[0, 1] == replace(alone, dropped=10)


@pytest.mark.parametrize("n", [10, 100, 1000])
def test_a_perfect_order_is_not_certain(n: int) -> None:
    scores = np.random.default_rng(n).normal(size=n)
    found = measure_agreement(scores, np.exp(scores), resamples=50)
    for metric in (found.srcc, found.krcc):
        assert metric.value == pytest.approx(1)
        assert metric.high == 1
        assert metric.low is not None
        assert metric.low < {10: 0, 100: 0.86, 1000: 0.99}[n]  # 2 · 0.025^(1 / (n // 2)) − 1, Spearman's below that
    reverse = measure_agreement(scores, -np.exp(scores), resamples=50)
    assert (reverse.krcc.low, reverse.krcc.high) == pytest.approx((-1, -(found.krcc.low or 0)))
    line = measure_agreement(scores, 2 * scores, resamples=50)
    assert line.plcc.low is None
    assert line.plcc.reason == "All pairs lie on one line or curve: every resample does, so they say nothing of others."
    assert line.rmse.low is None


def test_an_order_that_is_perfect_but_for_one_pair_has_an_interval() -> None:
    scores = np.arange(12.0)
    truths = scores.copy()
    truths[[3, 4]] = truths[[4, 3]]  # without either of them the order is perfect
    found = measure_agreement(scores, truths)
    assert found.srcc.low is not None
    assert found.krcc.low is not None
    assert found.krcc.low < 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("n", "repetitions", "fewest"), [(10, 200, 184), (30, 200, 182), (100, 60, 52)])
def test_intervals_of_few_pairs_hold_the_truth_about_as_often_as_they_say(
    n: int, repetitions: int, fewest: int
) -> None:
    inside: dict[str, int] = {}
    units = Units(n)
    for seed in range(repetitions):
        scores, truths = normal_pairs(n, seed)
        drawn = Resamples([bootstrap.Drawable(scores, truths, {})], bootstrap.resampling(units), seed, 0)
        values = {"srcc": srcc(scores, truths), "krcc": krcc(scores, truths), "plcc": plcc(scores, truths)}
        ends = {metric: drawn.interval(metric, value, truths, 0.95) for metric, value in values.items()}
        ends |= error_intervals(scores, truths, Moments(scores, truths).line, units, seed, 0.95)
        covered(inside, {metric: end for metric, end in ends.items() if not isinstance(end, str)})
    assert fewest <= min(inside.values()), inside


@pytest.mark.slow
@pytest.mark.parametrize("are_right", [True, False])
def test_clusters_that_are_all_right_or_all_wrong_are_worth_their_number(are_right: bool) -> None:
    sizes = [6, 8, 2, 8, 4, 7]
    units = Units(sum(sizes), np.repeat(np.arange(6), sizes))
    found = accuracy(np.full(sum(sizes), are_right), units, 0, 0.95)
    of_pairs = accuracy(np.full(6, are_right), Units(6), 0, 0.95)
    assert (found.value, found.low, found.high) == (of_pairs.value, of_pairs.low, of_pairs.high)


def test_intervals_by_clusters_hold_the_truth_where_those_by_rows_do_not() -> None:
    rows = of_clusters(16, 125, 0.4, 20, clustered=False, resamples=60)
    clusters = of_clusters(16, 125, 0.4, 60, clustered=True)
    assert max(rows.values()) <= 0.6
    assert min(clusters.values()) >= 0.87


def test_a_threshold_for_the_scores_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="needs one for the truth"):
        measure_agreement(*normal_pairs(10, seed=0), score_threshold=50.0)
