"""From the logits of the 101 score tokens to a score, its spread and, on request, the whole distribution."""

from __future__ import annotations

import torch

LEVEL_COUNT = 101


def level_probabilities(level_logits: torch.Tensor) -> torch.Tensor:
    """Softmax over the levels.

    Args:
        level_logits: (..., 101); column k belongs to level k.

    Returns:
        (..., 101) float32, each row sums to 1.

    Raises:
        ValueError: the last dimension is not 101.
    """
    if level_logits.shape[-1] != LEVEL_COUNT:
        raise ValueError(f"expected {LEVEL_COUNT} level logits, got a tensor of shape {tuple(level_logits.shape)}")
    # In bfloat16 the same arithmetic has steps of half a point above 64, which makes ties.
    return level_logits.float().softmax(dim=-1)


def expected_level(probabilities: torch.Tensor) -> torch.Tensor:
    """The score: the mean level, continuous although the vocabulary is not.

    Args:
        probabilities: (..., 101) float32.

    Returns:
        (...) float32, points from 0 to 100.

    Source: ArtiMuse, `InternVLChatModel.score`, modeling_artimuse.py at 750d980.
    """
    return probabilities @ _levels(probabilities)


def level_spread(probabilities: torch.Tensor) -> torch.Tensor:
    """How unsure the model is: the standard deviation of the level.

    Args:
        probabilities: (..., 101) float32.

    Returns:
        (...) float32, points from 0 to 50.
    """
    deviation = _levels(probabilities) - expected_level(probabilities).unsqueeze(-1)  # (..., 101)
    return (probabilities * deviation.square()).sum(dim=-1).sqrt()


def _levels(like: torch.Tensor) -> torch.Tensor:
    return torch.arange(LEVEL_COUNT, dtype=torch.float32, device=like.device)
