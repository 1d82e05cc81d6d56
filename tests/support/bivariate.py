"""Pairs whose true correlations are known, and pairs with ties."""

from __future__ import annotations

import math

import numpy as np

from jobs.evaluate.metrics.correlation import Floats

RHO = 0.7
# Kendall and Gibbons, "Rank Correlation Methods", 1990, for the bivariate normal distribution.
TRUE = {
    "srcc": 6 / math.pi * math.asin(RHO / 2),
    "plcc": RHO,
    "krcc": 2 / math.pi * math.asin(RHO),
    "rmse": math.sqrt(1 - RHO**2),
    "mae": math.sqrt((1 - RHO**2) * 2 / math.pi),
}


def normal_pairs(n: int, seed: int) -> tuple[Floats, Floats]:
    """Scores and truths, (n,) each, of variance 1 and correlation `RHO`."""
    scores, noise = np.random.default_rng(seed).normal(size=(2, n))
    return scores, RHO * scores + math.sqrt(1 - RHO**2) * noise


def tied_pairs(n: int, seed: int) -> tuple[Floats, Floats]:
    """The same in steps: whole scores, truths of half a point, with long tails."""
    scores, truths = normal_pairs(n, seed)
    return np.round(3 * np.exp(scores)), np.round(2 * truths) / 2


def covered(inside: dict[str, int], ends: dict[str, tuple[float, float]]) -> None:
    """Count which intervals hold the true value."""
    for metric, (low, high) in ends.items():
        inside[metric] = inside.get(metric, 0) + (low <= TRUE[metric] <= high)
