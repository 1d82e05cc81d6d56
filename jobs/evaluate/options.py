"""Options for comparing scores with ground truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite

from artimuse_actor.errors import UsageError
from jobs.evaluate.join import MATCHES
from jobs.evaluate.truth_columns import TruthColumns


@dataclass(frozen=True)
class EvaluateOptions:
    """Options for comparing scores with ground truth.

    Attributes:
        columns: roles of the ground truth's columns.
        match: the way it names images, one of `MATCHES`; None to detect it.
        question: which score; None for the benchmark's, or the first.
        id_column: column of a table of scores that names the image; None to guess it.
        benchmark: whose published values to compare with; None to go by the name of the ground truth's folder.
        threshold: above it is good on the ground truth's scale, for binary accuracy; None for the benchmark's.
        score_threshold: above it is good on the scores' own scale; None for the benchmark's.
        allow_mixed: whether the stores that a pattern matches may have several fingerprints.
        seed: of everything drawn.
        resamples: of the bootstrap.
    """

    columns: TruthColumns = field(default_factory=TruthColumns)
    match: str | None = None
    question: str | None = None
    id_column: str | None = None
    benchmark: str | None = None
    threshold: float | None = None
    score_threshold: float | None = None
    allow_mixed: bool = False
    seed: int = 0
    resamples: int = 1000

    def __post_init__(self) -> None:
        if self.match is not None and self.match not in MATCHES:
            raise UsageError(f"--match takes {', '.join(MATCHES)}, not {self.match!r}.")
        for option, value in (("--threshold", self.threshold), ("--score-threshold", self.score_threshold)):
            if value is not None and not isfinite(value):
                raise UsageError(f"{option} takes a number, not {value}.")
        if not 1 <= self.resamples <= 100_000:
            raise UsageError(f"--resamples takes a whole number from 1 to 100,000, not {self.resamples}.")
        if self.seed < 0:
            raise UsageError(f"--seed takes a whole number from 0, not {self.seed}.")
