from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.special import expit
from support.bivariate import normal_pairs

from jobs.evaluate.metrics import logistic
from jobs.evaluate.metrics.correlation import Floats, plcc
from jobs.evaluate.metrics.logistic import LogisticMapping, fit_logistic, fit_mappings


def curved_pairs(n: int, seed: int) -> tuple[Floats, Floats]:
    """Scores in points and truths from 1 to 10 along an S, with noise."""
    scores, noise = np.random.default_rng(seed).normal(size=(2, n))
    return 55 + 12 * scores, 2 + 6 * expit(2 * (scores - 0.4)) + 0.4 * noise


def fitted(scores: Floats, truths: Floats, parameters: int) -> LogisticMapping:
    mapping = fit_logistic(scores, truths, parameters)
    assert isinstance(mapping, LogisticMapping), mapping
    return mapping


def four(s: Floats, b1: float, b2: float, b3: float, b4: float) -> Floats:
    mapped: Floats = (b1 - b2) * expit((s - b3) / abs(b4)) + b2
    return mapped


def five(s: Floats, b1: float, b2: float, b3: float, b4: float, b5: float) -> Floats:
    mapped: Floats = b1 * (expit(b2 * (s - b3)) - 0.5) + b4 * s + b5
    return mapped


@pytest.mark.parametrize("n", [500, 30_000])
def test_mappings_are_those_of_a_plain_fit_from_a_good_start(n: int) -> None:
    scores, truths = curved_pairs(n, seed=0)
    for form, start in ((four, [8, 2, 60, 6]), (five, [6, 0.15, 60, 0.01, 5])):
        plain, _ = curve_fit(form, scores, truths, start, maxfev=20_000)
        mapped = fitted(scores, truths, len(start))(scores)
        assert plcc(mapped, truths) == pytest.approx(plcc(form(scores, *plain), truths), abs=1e-6)
        assert np.sqrt(np.mean((mapped - form(scores, *plain)) ** 2)) < 0.01


def test_noiseless_parameters_are_found_again() -> None:
    scores = np.linspace(20, 80, 300)
    mapping = fitted(scores, four(scores, 9, 1, 55, 7), 4)
    assert (mapping.level + mapping.height, mapping.level) == pytest.approx((9, 1), abs=1e-2)
    assert (mapping.location, mapping.scale, mapping.slope) == pytest.approx((55, 7, 0), abs=1e-2)


def test_a_falling_truth_is_mapped_by_a_falling_curve() -> None:
    scores, truths = curved_pairs(400, seed=1)
    mapping = fitted(scores, -truths, 4)
    assert mapping.height < 0
    assert plcc(mapping(scores), -truths) == pytest.approx(plcc(fitted(scores, truths, 4)(scores), truths), abs=1e-6)


def test_mappings_never_lose_to_a_straight_line() -> None:
    for seed in range(5):
        scores, truths = normal_pairs(2000, seed)
        for parameters in (4, 5):
            assert plcc(fitted(scores, truths, parameters)(scores), truths) > plcc(scores, truths) - 1e-6


def test_units_do_not_matter() -> None:
    scores, truths = curved_pairs(3000, seed=2)
    for parameters in (4, 5):
        mapped = fitted(scores, truths, parameters)(scores)
        scaled = fitted(1e6 * scores - 3e7, 1e-3 * truths, parameters)(1e6 * scores - 3e7)
        np.testing.assert_allclose(1e3 * scaled, mapped, atol=1e-3)


def test_few_different_scores_have_no_mapping() -> None:
    scores = np.array([1.0, 2.0, 3.0, 4.0, 4.0, 3.0])
    reasons = fit_mappings(scores, scores**2)
    assert reasons["plcc_logistic4"] == "A mapping with 4 parameters needs more different scores; there are 4."
    assert "5 parameters" in str(reasons["plcc_logistic5"])


def test_what_has_no_numbers_has_no_mapping() -> None:
    assert fit_logistic(np.array([1.0, np.inf, 2.0]), np.arange(3.0), 4) == "One of the scores is infinite."
    assert fit_logistic(np.empty(0), np.empty(0), 5) == "There are no pairs."


def test_a_fit_that_does_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "_EVALUATIONS", 5)
    assert fit_logistic(*curved_pairs(200, seed=3), 4) == "The fit did not converge in 5 evaluations."
