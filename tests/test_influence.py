from __future__ import annotations

import numpy as np
import pytest
from bivariate import RHO, TRUE, covered, normal_pairs, tied_pairs

from jobs.evaluate.metrics.asymptotic import (
    SAMPLE_CONSTANT,
    asymptotic_intervals,
    influences,
    interval,
    standard_error,
)
from jobs.evaluate.metrics.bootstrap import Drawable, resample
from jobs.evaluate.metrics.correlation import krcc, plcc, srcc


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    inside: dict[str, int] = {}
    for seed in range(200):
        scores, truths = normal_pairs(400, seed)
        errors = truths - np.polyval(np.polyfit(scores, truths, 1), scores)
        values: dict[str, float | str] = {
            "srcc": srcc(scores, truths),
            "plcc": plcc(scores, truths),
            "krcc": krcc(scores, truths),
            "rmse": float(np.sqrt(np.mean(errors**2))),
            "mae": float(np.mean(np.abs(errors))),
        }
        ends = asymptotic_intervals(values, influences(scores, truths, {}), 400, 0.95)
        covered(inside, {metric: end for metric, end in ends.items() if not isinstance(end, str)})
    for metric in TRUE:
        assert 184 <= inside[metric] <= 196, inside


def test_standard_errors_are_those_of_the_bootstrap_under_ties() -> None:
    scores, truths = tied_pairs(3000, seed=0)
    mapped = {"plcc_logistic4": np.sqrt(scores)}
    moved = influences(scores, truths, mapped)
    [found] = resample([Drawable(scores, truths, mapped)], 3000, 0, 1000)
    for metric, values in moved.items():
        # A standard deviation of 1000 draws is known to 2.2%.
        assert standard_error(values, 3000) == pytest.approx(np.std(found[metric]), rel=0.08), metric
        assert values.mean() == pytest.approx(0, abs=1e-10), metric


def test_a_normal_distribution_has_fishers_standard_error() -> None:
    scores, truths = normal_pairs(200_000, seed=0)
    moved = influences(scores, truths, {})
    assert standard_error(moved["plcc"], 200_000) == pytest.approx((1 - RHO**2) / np.sqrt(200_000), rel=0.01)


def test_a_perfect_correlation_has_a_perfect_interval() -> None:
    assert interval("srcc", 1.0, 0.0, 0.95) == (1.0, 1.0)
    assert interval("rmse", 0.0, 0.0, 0.95) == (0.0, 0.0)
    assert interval("plcc", -0.99, 0.01, 0.95)[0] > -1


def test_a_sample_that_does_not_vary_has_no_interval() -> None:
    values: dict[str, float | str] = {"srcc": 0.5, "plcc": "All scores are equal but for rounding."}
    ends = asymptotic_intervals(values, influences(np.ones(9), np.arange(9.0), {}), 10**6, 0.95)
    assert ends == {"srcc": SAMPLE_CONSTANT}
