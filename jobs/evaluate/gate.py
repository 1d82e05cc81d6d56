"""`--gate "srcc>=0.80"`: conditions on metrics, for CI."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from artimuse_actor.errors import GateFailed, UsageError
from jobs.evaluate.evaluation import Evaluation
from jobs.evaluate.metrics.estimate import DIFFERENCES
from jobs.evaluate.text import headline
from schemas.metrics import METRIC_NAMES

_OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_GATE = re.compile(rf"\s*(?P<name>\w+)\s*(?P<operator>[<>]=?)\s*(?P<bound>{_NUMBER})\s*")
NAMES: Final = (
    *(f"{metric}{end}" for metric in METRIC_NAMES for end in ("", "_low", "_high")),
    *(f"{metric}_difference" for metric in ("srcc", "plcc")),
    *(f"{metric}_against{end}" for metric in DIFFERENCES for end in ("", "_low", "_high", "_p")),
    *("base_rate", "n", "completeness"),
)
"""What a gate may name: a metric, an end of its interval, its difference to the published value (`_difference`) or to
--against (`_against`, its ends, its p-value), and counts."""


@dataclass(frozen=True)
class Gate:
    """One condition.

    Attributes:
        name: one of `NAMES`; `completeness` is the share of expected rows with a score.
        comparison: `>=`, `<=`, `>` or `<`.
        bound: value to compare with.
    """

    name: str
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
        name = match["name"].lower()
        if name not in NAMES:
            near = get_close_matches(name, NAMES, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(NAMES)}."
            raise UsageError(f"--gate {text!r}: there is no metric {name!r}. {hint}")
        return cls(name, match["operator"], float(match["bound"]))

    def miss(self, evaluation: Evaluation) -> str | None:
        """A sentence if the metric misses the bound or has no value, else None."""
        found, why = self._found(evaluation)
        if found is None:
            return f"{self} cannot be checked: {why}"
        return None if _OPERATORS[self.comparison](found, self.bound) else f"{self} is missed: it is {found:.6g}."

    def _found(self, evaluation: Evaluation) -> tuple[float | None, str | None]:
        agreement, counts = evaluation.agreement, evaluation.counts
        if self.name == "n":
            return agreement.n, None
        if self.name == "completeness":
            return (counts.scored / counts.expected, None) if counts.expected else (None, "No row was expected.")
        if self.name == "base_rate":
            return agreement.base_rate, "No threshold was given; add --threshold."
        metric, _, part = self.name.partition("_against")
        if metric != self.name:
            if evaluation.against is None:
                return None, "Nothing is compared with; add --against."
            difference = getattr(evaluation.against.difference, metric)
            part = {"_low": "low", "_high": "high", "_p": "p_value"}.get(part, "value")
            return getattr(difference, part), difference.reason
        if self.name.endswith("_difference"):
            metric = self.name.removesuffix("_difference")
            ours = getattr(agreement, metric)
            if evaluation.published is None:
                return None, "Nothing is published for this checkpoint on this data set."
            theirs = getattr(evaluation.published, metric)
            return None if ours.value is None else ours.value - theirs, ours.reason
        metric, part = self.name, "value"
        for end in ("low", "high"):
            if self.name.endswith(f"_{end}"):
                metric, part = self.name.removesuffix(f"_{end}"), end
        estimate = getattr(agreement, metric)
        if estimate is None:
            option = "--score-threshold" if metric == "accuracy_direct" else "--threshold"
            return None, f"No threshold was given; add {option}."
        return getattr(estimate, part), estimate.reason

    def __str__(self) -> str:
        return f"{self.name}{self.comparison}{self.bound:g}"


def check_gates(
    evaluations: Iterable[Evaluation], gates: Sequence[Gate], require_complete: bool, others: Sequence[str] = ()
) -> None:
    """Check all conditions on all evaluations.

    Args:
        evaluations: any.
        gates: conditions on each.
        require_complete: whether every row must have a score.
        others: sentences about what failed besides.

    Raises:
        GateFailed: some are missed; the message names all of them.
    """
    misses = [*others]
    for evaluation in evaluations:
        where = f"{evaluation.data_set}, {evaluation.label}"
        if require_complete and not evaluation.counts.is_complete:
            misses.append(f"{where}: --require-complete is missed: {headline(evaluation.counts)}.")
        misses += [f"{where}: {miss}" for gate in gates if (miss := gate.miss(evaluation))]
    if misses:
        raise GateFailed("\n".join(misses))
