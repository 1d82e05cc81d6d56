from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from bivariate import normal_pairs, tied_pairs

from jobs.evaluate.metrics import two_passes as survey_module
from jobs.evaluate.metrics.accuracy import Thresholds
from jobs.evaluate.metrics.agreement import measure_agreement
from jobs.evaluate.metrics.correlation import Floats
from jobs.evaluate.metrics.estimate import ASYMPTOTIC, Agreement
from jobs.evaluate.metrics.two_passes import Survey, Tally


def agreement_of_parts(scores: Floats, truths: Floats, part: int, thresholds: Thresholds | None = None) -> Agreement:
    parts = [slice(start, start + part) for start in range(0, len(scores), part)]
    survey = Survey(seed=0)
    for rows in parts:
        survey.add(scores[rows], truths[rows])
    tally = Tally(survey, thresholds)
    for rows in parts:
        tally.add(scores[rows], truths[rows])
    return tally.agreement(0.95)


def test_two_passes_find_what_one_look_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "SAMPLE_PAIRS", 20_000)
    scores, truths = normal_pairs(150_000, seed=0)
    scores[7], truths[9] = np.nan, np.nan
    found = agreement_of_parts(scores, truths, 40_000, Thresholds(0.5))
    whole = measure_agreement(scores, truths, truth_threshold=0.5)
    assert (
        (found.n, found.dropped, found.interval) == (149_998, 2, ASYMPTOTIC) == (whole.n, whole.dropped, whole.interval)
    )
    assert found.accuracy == whole.accuracy
    assert (found.slope, found.intercept) == pytest.approx((whole.slope, whole.intercept), rel=1e-9)
    assert whole.rank_error == 0 < found.rank_error < 1e-3
    tolerances = {"srcc": found.rank_error, "krcc": found.rank_error, "plcc_logistic4": 1e-4, "plcc_logistic5": 1e-4}
    for metric in ("srcc", "plcc", "plcc_logistic4", "plcc_logistic5", "krcc", "rmse", "mae"):
        one, other = asdict(found)[metric], asdict(whole)[metric]
        assert one["value"] == pytest.approx(other["value"], abs=tolerances.get(metric, 1e-9)), metric
        width = other["high"] - other["low"]
        assert (one["low"], one["high"]) == pytest.approx((other["low"], other["high"]), abs=0.1 * width + 1e-4), metric


def test_how_pairs_are_cut_into_parts_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "SAMPLE_PAIRS", 500)
    scores, truths = tied_pairs(3000, seed=0)
    one, other = agreement_of_parts(scores, truths, 3000), agreement_of_parts(scores, truths, 701)
    assert one.srcc.value == pytest.approx(other.srcc.value, abs=1e-12)
    assert one.plcc_logistic4.value == pytest.approx(other.plcc_logistic4.value, abs=1e-9)
    assert one.rmse.high == pytest.approx(other.rmse.high, rel=1e-9)
    assert agreement_of_parts(scores, truths, 701) == other


@pytest.mark.parametrize(
    ("scores", "truths"),
    [([], []), ([1.0], [2.0]), ([np.nan, 2.0], [1.0, np.nan]), ([1.0, 1.0], [2.0, 3.0]), ([1.0, np.inf], [0.0, 1.0])],
)
def test_what_is_not_defined_has_the_same_sentence_as_in_one_look(scores: list[float], truths: list[float]) -> None:
    found = agreement_of_parts(np.array(scores), np.array(truths), 1, Thresholds(1.0))
    whole = measure_agreement(np.array(scores), np.array(truths), truth_threshold=1.0, resamples=10)
    for metric in ("srcc", "plcc", "plcc_logistic4", "plcc_logistic5", "krcc", "rmse", "mae", "accuracy"):
        one, other = asdict(found)[metric], asdict(whole)[metric]
        assert one["value"] == pytest.approx(other["value"]), metric
        if one["value"] is None:
            assert one["reason"] == other["reason"], metric


def test_passes_over_different_pairs_are_refused() -> None:
    survey = Survey(seed=0)
    survey.add(*normal_pairs(100, seed=0))
    tally = Tally(survey, None)
    tally.add(*normal_pairs(99, seed=0))
    with pytest.raises(ValueError, match="100 pairs, the second 99"):
        tally.agreement(0.95)
