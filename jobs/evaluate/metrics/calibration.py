"""Calibration: mean ground truth by tenths of the scores."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating[Any]]

TENTHS: Final = 10


class Tenth(NamedTuple):
    """A tenth of the images, by score.

    Attributes:
        score: mean score.
        truth: mean ground truth.
        error: twice the standard error of that mean; 0 of a single image.
    """

    score: float
    truth: float
    error: float


def calibration(scores: Numbers, truths: Numbers) -> list[Tenth]:
    """Scores and truths, (N,) each, as tenths in the order of the scores; fewer than ten of fewer images."""
    if not len(scores):
        return []
    tenths = np.array_split(np.argsort(scores, kind="stable"), min(TENTHS, len(scores)))
    errors = [2 * float(truths[tenth].std(ddof=1)) / len(tenth) ** 0.5 if len(tenth) > 1 else 0.0 for tenth in tenths]
    return [
        Tenth(float(scores[tenth].mean()), float(truths[tenth].mean()), error)
        for tenth, error in zip(tenths, errors, strict=True)
    ]
