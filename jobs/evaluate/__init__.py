"""Scores + ground truth → metrics with intervals; published benchmarks."""

from jobs.evaluate.evaluate import evaluate

__all__ = ["evaluate"]
