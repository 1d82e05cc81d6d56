"""Binary accuracy: the share of scores on the same side of a threshold as the ground truth."""

from __future__ import annotations

from dataclasses import dataclass

from scipy import stats

from jobs.evaluate.metrics.correlation import Floats, Line
from jobs.evaluate.metrics.estimate import Estimate


@dataclass(frozen=True)
class Thresholds:
    """Thresholds from which an image is "good", inclusive.

    Attributes:
        truth: on the truth's scale.
        score: on the scores' scale; None to map the scores onto the truth's scale first, with the linear mapping.
    """

    truth: float
    score: float | None = None

    def count_correct(self, scores: Floats, truths: Floats, line: Line | None) -> int | None:
        """Number of pairs on the same side; None if a linear mapping is needed and there is none."""
        if self.score is not None:
            good = scores >= self.score
        elif line:
            good = line.slope * scores + line.intercept >= self.truth
        else:
            return None
        return int((good == (truths >= self.truth)).sum())


def accuracy(correct: int | None, n: int, confidence: float) -> Estimate:
    """The share of correct pairs with Wilson's interval, which takes the thresholds as given."""
    if not n:
        return Estimate(None, reason="There are no pairs.")
    if correct is None:
        return Estimate(None, reason="There is no linear mapping to compare the scores by; give a threshold for them.")
    ends = stats.binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return Estimate(correct / n, float(ends.low), float(ends.high))
