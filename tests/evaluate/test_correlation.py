from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from support.bivariate import normal_pairs, tied_pairs

from jobs.evaluate.metrics.correlation import Extent, Floats, Moments, complete_rows, krcc, plcc, srcc


def counted_krcc(scores: Floats, truths: Floats) -> float:
    """Tau-b by looking at every pair of pairs."""
    signs = np.sign(np.subtract.outer(ranks(scores), ranks(scores))) * np.sign(
        np.subtract.outer(ranks(truths), ranks(truths))
    )
    untied = [(np.not_equal.outer(side, side)).sum() for side in (scores, truths)]
    return float(signs.sum() / np.sqrt(float(untied[0]) * float(untied[1])))


def ranks(values: Floats) -> Floats:
    return np.asarray(stats.rankdata(values), np.float64)  # infinities have no difference


VALUES = st.one_of(
    st.integers(-3, 3).map(float),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([np.nan, np.inf, -np.inf, 1e-300, 1e300, 1 + 1e-15]),
)
ROWS = st.lists(st.tuples(VALUES, VALUES), max_size=40).map(lambda rows: np.array(rows, float).reshape(-1, 2))


@given(ROWS)
def test_every_metric_is_scipys_or_has_a_reason(rows: Floats) -> None:
    whole = complete_rows(rows[:, 0], rows[:, 1])
    assert whole.tolist() == [not np.isnan(row).any() for row in rows]
    scores, truths = rows[whole].T
    extent = Extent(scores, truths)
    if not extent.rank_problem:
        assert srcc(scores, truths) == pytest.approx(stats.pearsonr(ranks(scores), ranks(truths)).statistic, abs=1e-12)
        assert krcc(scores, truths) == pytest.approx(counted_krcc(scores, truths), abs=1e-12)
    if not extent.number_problem:
        moments = Moments(scores, truths)
        assert plcc(scores, truths) == stats.pearsonr(scores, truths).statistic
        assert plcc(scores, truths) == pytest.approx(moments.correlation, abs=1e-9)
        assert np.isfinite(moments.line.residuals(scores, truths)).all()
    assert not extent.rank_problem or extent.number_problem == extent.rank_problem


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [normal_pairs, tied_pairs])
def test_a_million_pairs_give_scipys_values(pairs: Callable[[int, int], tuple[Floats, Floats]]) -> None:
    scores, truths = pairs(1_000_000, 0)
    moments = Moments(scores, truths)
    line = stats.linregress(scores, truths)
    assert srcc(scores, truths) == stats.spearmanr(scores, truths).statistic
    assert krcc(scores, truths) == stats.kendalltau(scores, truths).statistic
    assert moments.correlation == pytest.approx(plcc(scores, truths), abs=1e-12)
    assert moments.line == pytest.approx((line.slope, line.intercept), rel=1e-10)


def test_opposite_orders_of_a_million_are_minus_one() -> None:
    scores = np.arange(1_000_000.0)
    assert krcc(scores, -scores) == srcc(scores, -scores) == -1


def test_rank_metrics_accept_infinities_and_sums_do_not() -> None:
    scores, truths = np.array([-np.inf, 1.0, 2.0, np.inf]), np.array([0.0, 1.0, 3.0, 2.0])
    extent = Extent(scores, truths)
    assert extent.rank_problem is None
    assert extent.number_problem == "One of the scores is infinite."
    assert srcc(scores, truths) == pytest.approx(0.8)
    assert krcc(scores, truths) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("scores", "truths", "rank_problem", "number_problem"),
    [
        ([], [], "There are no pairs.", "There are no pairs."),
        ([1.0], [2.0], "There is only one pair.", "There is only one pair."),
        ([1.0, 1.0], [2.0, 3.0], "All scores are equal.", "All scores are equal."),
        ([np.inf, np.inf], [2.0, 3.0], "All scores are equal.", "All scores are equal."),
        ([1.0, 2.0], [3.0, 3.0], "All ground truth values are equal.", "All ground truth values are equal."),
        ([1.0, 2.0], [3.0, -np.inf], None, "One of the ground truth values is infinite."),
        ([1.0, 1e200], [3.0, 4.0], None, "One of the scores is infinite, or nearly so."),
        ([1.0, 1.0 + 1e-15], [3.0, 4.0], None, "All scores are equal but for rounding."),
        ([1e-200, 2e-200], [3.0, 4.0], None, "All scores are equal but for rounding."),
        ([1.0, 2.0], [3.0, 4.0], None, None),
    ],
)
def test_what_is_not_defined_has_a_sentence(
    scores: list[float], truths: list[float], rank_problem: str | None, number_problem: str | None
) -> None:
    extent = Extent(np.array(scores), np.array(truths))
    assert (extent.rank_problem, extent.number_problem) == (rank_problem, number_problem)


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[3, 2\]"):
        complete_rows(np.zeros(3), np.zeros(2))
