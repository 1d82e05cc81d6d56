from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support.bivariate import TRUE, covered, normal_pairs, tied_pairs

from jobs.evaluate.metrics import bootstrap
from jobs.evaluate.metrics.agreement import measure_agreement, measure_difference
from jobs.evaluate.metrics.correlation import Floats, Moments, krcc, plcc, srcc
from jobs.evaluate.metrics.estimate import BOOTSTRAP, M_OUT_OF_N, METRICS, Agreement, Estimate

NUMBERS = st.one_of(st.integers(-2, 2).map(float), st.floats(allow_nan=True, allow_infinity=True))
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=12)


def estimates(found: Agreement) -> dict[str, Estimate]:
    return {metric: getattr(found, metric) for metric in METRICS}


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
    assert (found.interval, found.resample_pairs) == (BOOTSTRAP, 500)
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


@pytest.mark.parametrize("limit", [100_000, 0])
@given(rows=ROWS)
@settings(max_examples=60, deadline=None)
def test_nothing_is_nan_and_every_none_has_a_reason(rows: list[tuple[float, float, float]], limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "FULL_PAIRS", limit)
        first, second, truths = np.array(rows, float).reshape(-1, 3).T
        found = measure_agreement(first, truths, resamples=20, truth_threshold=0.0)
        difference = measure_difference(first, second, truths, resamples=20)
    assert found.n + found.dropped == len(rows)
    for estimate in (*estimates(found).values(), found.accuracy, difference.srcc, difference.plcc, difference.krcc):
        assert estimate is not None
        numbers = [getattr(estimate, field.name) for field in fields(estimate) if field.name != "reason"]
        assert (None in numbers) == (estimate.reason is not None), estimate
        assert all(number is None or np.isfinite(number) for number in numbers), estimate


def test_intervals_of_subsamples_are_those_of_the_full_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, truths = tied_pairs(8000, seed=1)
    full = estimates(measure_agreement(scores, truths, resamples=500))
    monkeypatch.setattr(bootstrap, "FULL_PAIRS", 0)
    monkeypatch.setattr(bootstrap, "SUBSAMPLE_PAIRS", 2000)
    scaled = measure_agreement(scores, truths, resamples=500)
    assert (scaled.interval, scaled.resamples, scaled.resample_pairs) == (M_OUT_OF_N, 500, 2000)
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
    for seed in range(200):
        scores, truths = normal_pairs(1000, seed)
        [found] = bootstrap.resample(
            [bootstrap.Drawable(scores, truths, {})], plan := bootstrap.resampling(1000), seed, 100
        )
        values = {"srcc": srcc(scores, truths), "krcc": krcc(scores, truths), "plcc": plcc(scores, truths)}
        line = Moments(scores, truths).line
        errors = line.residuals(scores, truths)
        values |= {"rmse": float(np.sqrt(np.mean(errors**2))), "mae": float(np.mean(np.abs(errors)))}
        ends = {metric: bootstrap.percentiles(plan.scale(values[metric], found[metric]), 0.95) for metric in TRUE}
        covered(inside, {metric: end for metric, end in ends.items() if not isinstance(end, str)})
    for metric in TRUE:
        assert 178 <= inside[metric] <= 198, inside


def test_a_million_pairs_give_scipys_values() -> None:
    scores, truths = tied_pairs(1_000_000, seed=0)
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
    assert "resamples have no value" in found.srcc.reason
    assert found.plcc_logistic4.value is None


def test_accuracy_counts_pairs_on_the_same_side() -> None:
    scores, truths = np.array([40.0, 50.0, 60.0, 70.0]), np.array([4.0, 5.0, 4.5, 7.0])
    given = measure_agreement(scores, truths, truth_threshold=5.0, score_threshold=50.0).accuracy
    assert given is not None
    assert (given.value, given.low, given.high) == pytest.approx((0.75, 0.3006, 0.9544), abs=1e-4)
    mapped = measure_agreement(scores, truths, truth_threshold=5.0).accuracy  # the line passes 5 at 53.9 points
    assert mapped is not None
    assert mapped.value == 0.5


def test_accuracy_without_a_linear_mapping_asks_for_a_threshold() -> None:
    scores, truths = np.array([40.0, np.inf]), np.array([4.0, 5.0])
    missing = measure_agreement(scores, truths, truth_threshold=5.0).accuracy
    assert missing is not None
    assert missing.reason is not None
    assert "give a threshold" in missing.reason
    given = measure_agreement(scores, truths, truth_threshold=5.0, score_threshold=50.0).accuracy
    assert given is not None
    assert given.value == 1


def two_scorers(n: int, seed: int, noise: float) -> tuple[Floats, Floats, Floats]:
    """Two sets of scores that follow the truth, the second with this much noise where the first has 1."""
    truths, first, second = np.random.default_rng(seed).normal(size=(3, n))
    return truths + first, truths + noise * second, truths


@pytest.mark.slow
@pytest.mark.parametrize("limit", [100_000, 0])
def test_a_difference_that_is_none_is_seldom_found(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "FULL_PAIRS", limit)
    found = [measure_difference(*two_scorers(100, seed, 1.0), seed=seed, resamples=99) for seed in range(60)]
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
        assert metric.p_value <= 0.01


@pytest.mark.parametrize("limit", [100_000, 0])
def test_scores_do_not_differ_from_themselves(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "FULL_PAIRS", limit)
    scores, truths = normal_pairs(100, seed=0)
    found = measure_difference(scores, scores, truths, resamples=50)
    assert (found.srcc.value, found.srcc.low, found.srcc.high, found.srcc.p_value) == (0, 0, 0, 1)


def test_a_difference_uses_the_rows_that_all_three_have() -> None:
    scores, truths = normal_pairs(100, seed=0)
    other = scores + 1
    scores[0], other[1], truths[2] = np.nan, np.nan, np.nan
    found = measure_difference(scores, other, truths, resamples=50)
    assert (found.n, found.dropped) == (97, 3)


def test_a_threshold_for_the_scores_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="needs one for the truth"):
        measure_agreement(*normal_pairs(10, seed=0), score_threshold=50.0)
