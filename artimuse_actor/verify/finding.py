"""The outcome of one check: how far answers are from those they should equal, and whether rounding explains it.

Points alone do not tell a rounded answer from a wrong one: the golden checkpoints have random weights, and bfloat16
moves their scores by up to 9 points. The logits of the levels do. Their error relative to their size was, over the 13
golden pictures and both checkpoints on a CPU, at most 4e-6 in float32, 0.008 in float16 and 0.12 in bfloat16. With a
causal mask that is missing or aligned to the wrong corner it was 0.26 to 1.5.

With weights of fewer bits the other side has the same ones, in float32 on the CPU. Errors were then at most 0.02 in
float16 and 0.17 in bfloat16, for int8, fp8 and nf4 alike: the bounds of the dtype hold. Where products are of 8 bits, a
rounding decides by an eighth of a value, and the error was 0.13 to 0.49; the median of three pictures, over the golden
pictures as they are and with three kinds of noise, was 0.17 to 0.28, and with a wrong mask 0.60 to 1.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BOUNDS: Final = {"uint8": 0.0, "float32": 1e-3, "float16": 0.03, "bfloat16": 0.2}
"""Of an error in each precision; beyond it an answer is wrong. Pixels are equal or wrong."""

_FLOAT8_BOUND: Final = 0.45  # where products are of 8 bits

EXACT_POINTS: Final = 0.01
"""Scores that differ by less are the same for any use of them."""

_TOKEN_FACTOR: Final = (
    5  # the logits of the two likeliest tokens err each by its own, and the likeliest of many is taken
)
_SMALLEST: Final = 1e-38  # float32 has nothing smaller, whose logarithm would be infinite


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: what was compared with what.
        precision: of the network, such as `bfloat16`; `uint8` for pixels.
        attention: name of the attention of its decode steps, such as `VarlenPages`.
        points: largest difference of a score, or the mean one where `srcc` is given; None if no scores were compared.
        error: median relative error of the logits of the levels; of pixels the share of pictures that have others;
            None if neither was compared.
        texts: number of texts compared.
        equal_texts: number of them that are equal to the letter.
        regret: how much likelier, at most, the slow forward finds another next token than the one that was chosen, in
            standard deviations of its logits; 0 if no text differs.
        srcc: rank correlation of the scores, where they may differ by more than rounding, with weights of fewer bits
            beside all bits; None elsewhere.
        skipped: why the check was not made; empty if it was.
    """

    check: str
    precision: str
    attention: str = ""
    points: float | None = None
    error: float | None = None
    texts: int = 0
    equal_texts: int = 0
    regret: float = 0.0
    srcc: float | None = None
    skipped: str = ""

    @property
    def is_wrong(self) -> bool:
        """Whether more than the rounding of this precision is between the two sides; NaN is."""
        bound = math.inf if self.srcc is not None else bound_of(self.precision)
        return not ((self.error or 0) <= bound and self.regret <= _TOKEN_FACTOR * bound)

    @property
    def verdict(self) -> str:
        """`ok`, `drift 0.12 points`, `wrong` or `skipped`."""
        if self.skipped:
            return "skipped"
        if self.is_wrong:
            return "wrong"
        drifts = [f"{self.points:.2f} points"] if self.points is not None and self.points > EXACT_POINTS else []
        if self.equal_texts < self.texts:
            drifts.append(f"{self.texts - self.equal_texts} of {self.texts} texts")
        if self.srcc is not None:
            drifts.append(f"SRCC {self.srcc:.4f}")
        return f"drift {', '.join(drifts)}" if drifts else "ok"

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints; NaN, which JSON does not have, is null."""
        numbers = {"points": self.points, "error": self.error, "regret": self.regret, "srcc": self.srcc}
        return {
            "check": self.check,
            "precision": self.precision,
            "attention": self.attention,
            "verdict": self.verdict,
            **{name: value if value is not None and math.isfinite(value) else None for name, value in numbers.items()},
            "texts": self.texts,
            "equal_texts": self.equal_texts,
            "skipped": self.skipped or None,
        }


def bound_of(precision: str) -> float:
    """The bound of an error in a precision as fingerprints have it, such as `bfloat16/nf4`."""
    dtype, _, kind = precision.partition("/")
    return _FLOAT8_BOUND if kind == "fp8-products" else BOUNDS[dtype]


def logits_of(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """(…, 101) probabilities → logits up to a constant, as float64."""
    logits: NDArray[np.float64] = np.log(np.maximum(probabilities.astype(np.float64), _SMALLEST))
    return logits


def relative_error(logits: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """The median, over images and questions, of the relative error of (N, Q, 101) logits; a constant does not count."""
    centred, wanted = (part - part.mean(axis=-1, keepdims=True) for part in (logits, expected))
    errors = np.linalg.norm(centred - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)  # (N, Q)
    return float(np.median(errors))


def largest_difference(scores: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """The largest difference of two arrays of scores, in points."""
    return float(np.abs(scores - expected).max())


def exit_code(findings: Sequence[Finding]) -> int:
    """1 if anything is wrong, else 0."""
    return int(any(finding.is_wrong for finding in findings))
