from __future__ import annotations

import pytest
import torch

from artimuse_actor.engine.scoring import expected_level, level_probabilities, level_spread, scores_of
from artimuse_actor.errors import RunError


def test_equal_logits_score_the_middle_with_the_widest_even_spread() -> None:
    probabilities = level_probabilities(torch.zeros(1, 101))
    assert expected_level(probabilities).item() == pytest.approx(50, abs=1e-4)
    assert level_spread(probabilities).item() == pytest.approx((sum((k - 50) ** 2 for k in range(101)) / 101) ** 0.5)


@pytest.mark.parametrize("level", [0, 1, 50, 99, 100])
def test_a_certain_model_scores_the_level_itself_without_spread(level: int) -> None:
    logits = torch.zeros(1, 101)
    logits[0, level] = 1000
    probabilities = level_probabilities(logits)
    assert expected_level(probabilities).item() == pytest.approx(level, abs=1e-4)
    assert level_spread(probabilities).item() == pytest.approx(0, abs=1e-4)


def test_a_model_torn_between_the_ends_has_a_spread_of_50() -> None:
    logits = torch.full((101,), -1000.0)
    logits[[0, 100]] = 0
    assert level_spread(level_probabilities(logits)).item() == pytest.approx(50, abs=1e-4)


def test_any_number_of_dimensions_precedes_the_levels() -> None:
    logits = torch.randn(2, 3, 101, generator=torch.Generator().manual_seed(0))
    scores = expected_level(level_probabilities(logits))
    assert scores.shape == level_spread(level_probabilities(logits)).shape == (2, 3)
    # Sums of other shapes are added in another order on some processors.
    torch.testing.assert_close(scores[1, 2], expected_level(level_probabilities(logits[1, 2])), atol=1e-4, rtol=0)


def test_bfloat16_logits_are_scored_in_float32() -> None:
    # In bfloat16 the same arithmetic has steps of half a point above 64, which makes ties.
    logits = (10 * torch.randn(50, 101, generator=torch.Generator().manual_seed(0))).bfloat16()
    scores = expected_level(level_probabilities(logits))
    assert scores.dtype == torch.float32
    assert len(scores.unique()) == 50
    torch.testing.assert_close(scores, expected_level(level_probabilities(logits.float())))


def test_what_is_no_number_is_no_score() -> None:
    logits = torch.zeros(2, 1, 101)
    assert scores_of(level_probabilities(logits)).score.shape == (2, 1)
    logits[1, 0, 7] = torch.inf  # as an activation that overflows in float16 makes
    with pytest.raises(RunError, match="--dtype bfloat16"):
        scores_of(level_probabilities(logits))


def test_a_wrong_number_of_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="101"):
        level_probabilities(torch.zeros(1, 100))
