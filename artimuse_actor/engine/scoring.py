"""Logits of the 101 score tokens → a score, its spread and, on request, the whole distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from artimuse_actor.errors import NoNumber

if TYPE_CHECKING:
    import torch

LEVEL_COUNT = 101


@dataclass(frozen=True)
class Scores:
    """Scores of N images for Q questions.

    Attributes:
        score: (N, Q) float32, points from 0 to 100.
        std: (N, Q) float32, points: the spread of the levels' probabilities.
        distribution: (N, Q, 101) float32, the probabilities themselves.
    """

    score: NDArray[np.float32]
    std: NDArray[np.float32]
    distribution: NDArray[np.float32]


@dataclass(frozen=True)
class ImageScore:
    """Scores of one picture, by question: `score` for ArtiMuse; `iaa`, `iqa`, `ista` for UniPercept.

    Attributes:
        scores: points from 0 to 100.
        stds: standard deviations of the level, in points: the model's uncertainty.
        distributions: the 101 probabilities.
    """

    scores: Mapping[str, float]
    stds: Mapping[str, float]
    distributions: Mapping[str, NDArray[np.float32]]

    @property
    def score(self) -> float:
        """The score of the protocol's first question, which is about aesthetics in every protocol."""
        return next(iter(self.scores.values()))

    @property
    def score_std(self) -> float:
        """The standard deviation of the first question's score."""
        return next(iter(self.stds.values()))

    @property
    def columns(self) -> dict[str, float]:
        """As columns of the scores table: each question's points, and its standard deviation as `…_std`."""
        return {
            name: value
            for question, points in self.scores.items()
            for name, value in ((question, points), (f"{question}_std", self.stds[question]))
        }


def level_probabilities(level_logits: torch.Tensor, *, rounded: bool = False) -> torch.Tensor:
    """Softmax over the levels, in float32 unless `rounded`.

    Args:
        level_logits: (..., 101); column k belongs to level k.
        rounded: in their own dtype.

    Returns:
        (..., 101) float32, or of their dtype; each row sums to 1.

    Raises:
        ValueError: the last dimension is not 101.
    """
    if level_logits.shape[-1] != LEVEL_COUNT:
        raise ValueError(f"expected {LEVEL_COUNT} level logits, got a tensor of shape {tuple(level_logits.shape)}")
    # In bfloat16, levels above 64 would come in steps of half a point, which makes ties.
    return (level_logits if rounded else level_logits.float()).softmax(dim=-1)


def expected_level(probabilities: torch.Tensor) -> torch.Tensor:
    """The score: the mean level, continuous although the vocabulary is not.

    Args:
        probabilities: (..., 101) float32, or of the dtype in which the score is to be rounded.

    Returns:
        (...) of the same dtype, points from 0 to 100.

    Source: ArtiMuse, `InternVLChatModel.score`, modeling_artimuse.py at 750d980.
    """
    return probabilities @ _levels(probabilities)


def level_spread(probabilities: torch.Tensor) -> torch.Tensor:
    """The standard deviation of the level: the model's uncertainty.

    Args:
        probabilities: (..., 101) float32.

    Returns:
        (...) float32, points from 0 to 50.
    """
    deviation = _levels(probabilities) - expected_level(probabilities).unsqueeze(-1)  # (..., 101)
    return (probabilities * deviation.square()).sum(dim=-1).sqrt()


def _levels(like: torch.Tensor) -> torch.Tensor:
    import torch  # not by a process that only takes scores

    return torch.arange(LEVEL_COUNT, dtype=like.dtype, device=like.device)


def scores_of(probabilities: torch.Tensor) -> Scores:
    """Scores from the (N, Q, 101) probabilities of the levels, on the CPU, rounded as those are.

    Raises:
        NoNumber: one is NaN or infinite, which would otherwise be stored as the score of an image.
    """
    if not probabilities.isfinite().all():
        raise no_number()
    exact = probabilities.float()
    return Scores(
        score=expected_level(probabilities).float().numpy(),
        std=level_spread(exact).numpy(),
        distribution=exact.numpy(),
    )


def no_number() -> NoNumber:
    """The error of an answer that is NaN or infinite."""
    return NoNumber(
        "The model's answer is no number: float16 is too narrow for its activations, or its weights are damaged. "
        "Use --dtype bfloat16 or float32; if it says so again, fetch the checkpoint again."
    )


def image_scores(questions: Sequence[str], scores: Scores) -> list[ImageScore]:
    """Split `Scores` into one `ImageScore` per image, under the names of the Q questions."""
    return [
        ImageScore(
            scores=dict(zip(questions, map(float, score), strict=True)),
            stds=dict(zip(questions, map(float, std), strict=True)),
            distributions=dict(zip(questions, distribution, strict=True)),
        )
        for score, std, distribution in zip(scores.score, scores.std, scores.distribution, strict=True)
    ]
