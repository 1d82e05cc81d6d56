"""Holm's correction of p-values for many comparisons made at once.

Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from jobs.evaluate.metrics.estimate import DIFFERENCES, Difference

_Key = TypeVar("_Key")


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The corrected p-values, in the same order: if all differences are chance, any is below α with a chance of α only.

    None, of a comparison that could not be made, stays None and does not count.
    """
    found = sorted((p_value, number) for number, p_value in enumerate(p_values) if p_value is not None)
    corrected: list[float | None] = [None] * len(p_values)
    most = 0.0
    for rank, (p_value, number) in enumerate(found):
        most = max(most, min(1.0, (len(found) - rank) * p_value))
        corrected[number] = most
    return corrected


def holm_corrected(differences: Mapping[_Key, Difference]) -> dict[_Key, Difference]:
    """The same differences with their corrected p-values; those of each metric are one family."""
    corrected = dict(differences)
    for metric in DIFFERENCES:
        p_values = holm([getattr(difference, metric).p_value for difference in differences.values()])
        for key, p_value in zip(differences, p_values, strict=True):
            found = getattr(corrected[key], metric)
            corrected[key] = replace(corrected[key], **{metric: replace(found, p_corrected=p_value)})
    return corrected
