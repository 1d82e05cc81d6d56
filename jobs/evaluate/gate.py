"""`--gate "srcc>=0.80"`: conditions on metrics, for CI."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from artimuse_actor.errors import GateFailed, UsageError
from schemas.metrics import METRIC_NAMES

if TYPE_CHECKING:
    from jobs.evaluate.evaluation import Evaluation

_OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_GATE = re.compile(r"\s*(?P<metric>\w+)\s*(?P<operator>[<>]=?)\s*(?P<bound>[+-]?\d+(?:\.\d*)?)\s*")
_NAMES: Final = (*METRIC_NAMES, "n", "completeness")


@dataclass(frozen=True)
class Gate:
    """One condition.

    Attributes:
        metric: its name; `completeness` is the share of expected rows with a score.
        comparison: `>=`, `<=`, `>` or `<`.
        bound: value to compare with.
    """

    metric: str
    comparison: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Parse a condition as the user types it.

        Raises:
            UsageError: it is not a condition, or there is no such metric.
        """
        match = _GATE.fullmatch(text)
        if match is None:
            raise UsageError(f'--gate takes a metric, a comparison and a number, such as "srcc>=0.80", not {text!r}.')
        metric = match["metric"].lower()
        if metric not in _NAMES:
            near = get_close_matches(metric, _NAMES, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(_NAMES)}."
            raise UsageError(f"--gate {text!r}: there is no metric {metric!r}. {hint}")
        return cls(metric, match["operator"], float(match["bound"]))

    def check(self, evaluation: Evaluation) -> None:
        """Check the condition on an evaluation.

        Raises:
            GateFailed: the metric misses the bound, or has no value.
        """
        found, why = self._found(evaluation)
        if found is None:
            raise GateFailed(f"{evaluation.data_set}: {self} cannot be checked: {why}")
        if not _OPERATORS[self.comparison](found, self.bound):
            raise GateFailed(f"{evaluation.data_set}: {self} is missed: it is {found:.6g}.")

    def _found(self, evaluation: Evaluation) -> tuple[float | None, str | None]:
        if self.metric == "n":
            return evaluation.agreement.n, None
        if self.metric == "completeness":
            counts = evaluation.counts
            return (counts.scored / counts.expected, None) if counts.expected else (None, "No row was expected.")
        estimate = getattr(evaluation.agreement, self.metric)
        if estimate is None:
            return None, "No threshold was given; add --threshold."
        return estimate.value, estimate.reason

    def __str__(self) -> str:
        return f"{self.metric}{self.comparison}{self.bound:g}"
