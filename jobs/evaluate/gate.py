"""`--gate "srcc>=0.80"`: conditions on metrics, for CI."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, Protocol

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

    def miss(self, checked: Checkable) -> str | None:
        """A sentence if the metric misses the bound or has no value, else None."""
        found, why = checked.value(self.name)
        if found is None:
            return f"{self} cannot be checked: {why}"
        return None if _OPERATORS[self.comparison](found, self.bound) else f"{self} is missed: it is {found:.6g}."

    def __str__(self) -> str:
        return f"{self.name}{self.comparison}{self.bound:g}"


class Checkable(Protocol):
    """A result that gates are about."""

    @property
    def where(self) -> str:
        """Its name in messages."""

    def incomplete(self) -> str | None:
        """What is missing, in words; None if every row has a result."""

    def value(self, name: str) -> tuple[float | None, str | None]:
        """The value of one of `NAMES`, or None and a sentence."""


@dataclass(frozen=True)
class CheckedScores:
    """An evaluation of scores.

    Attributes:
        evaluation: the evaluation.
    """

    evaluation: Evaluation

    @property
    def where(self) -> str:
        """See `Checkable`."""
        return f"{self.evaluation.data_set}, {self.evaluation.label}"

    def incomplete(self) -> str | None:
        """See `Checkable`."""
        counts = self.evaluation.counts
        return None if counts.is_complete else headline(counts)

    def value(self, name: str) -> tuple[float | None, str | None]:
        """See `Checkable`."""
        evaluation = self.evaluation
        agreement, counts = evaluation.agreement, evaluation.counts
        if name == "n":
            return agreement.n, None
        if name == "completeness":
            return (counts.scored / counts.expected, None) if counts.expected else (None, "No row was expected.")
        if name == "base_rate":
            return agreement.base_rate, "No threshold was given; add --threshold."
        metric, _, part = name.partition("_against")
        if metric != name:
            if evaluation.against is None:
                return None, "Nothing is compared with; add --against."
            difference = getattr(evaluation.against.difference, metric)
            part = {"_low": "low", "_high": "high", "_p": "p_value"}.get(part, "value")
            return getattr(difference, part), difference.reason
        if name.endswith("_difference"):
            metric = name.removesuffix("_difference")
            ours = getattr(agreement, metric)
            if evaluation.published is None:
                return None, "Nothing is published for this checkpoint on this data set."
            theirs = getattr(evaluation.published, metric)
            return None if ours.value is None else ours.value - theirs, ours.reason
        metric, part = name, "value"
        for end in ("low", "high"):
            if name.endswith(f"_{end}"):
                metric, part = name.removesuffix(f"_{end}"), end
        estimate = getattr(agreement, metric)
        if estimate is None:
            option = "--score-threshold" if metric == "accuracy_direct" else "--threshold"
            return None, f"No threshold was given; add {option}."
        return getattr(estimate, part), estimate.reason


def check_gates(
    results: Iterable[Checkable], gates: Sequence[Gate], require_complete: bool, others: Sequence[str] = ()
) -> None:
    """Check all conditions on all evaluations.

    Args:
        results: any.
        gates: conditions on each.
        require_complete: whether every row must have a score.
        others: sentences about what failed besides.

    Raises:
        GateFailed: some are missed; the message names all of them.
    """
    misses = [*others]
    for result in results:
        if require_complete and (missing := result.incomplete()):
            misses.append(f"{result.where}: --require-complete is missed: {missing}.")
        misses += [f"{result.where}: {miss}" for gate in gates if (miss := gate.miss(result))]
    if misses:
        raise GateFailed("\n".join(misses))
