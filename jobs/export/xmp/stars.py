"""Scores → stars, by thresholds in points or by shares of the pictures."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from math import isfinite
from typing import Final

from artimuse_actor.errors import UsageError
from jobs.store.database import Database, identifier

DEFAULT: Final = "30,45,60,75,90"
REJECTED: Final = "-1"
_FIFTHS: Final = ("quantiles", "0%,20%,40%,60%,80%")


@dataclass(frozen=True)
class Stars:
    """The rule from score to rating.

    Attributes:
        thresholds: the score from which one star is given, two, up to five.
        reject_below: scores below are rejected; None for none.
    """

    thresholds: tuple[float, ...]
    reject_below: float | None = None

    def rating(self, score: float) -> str:
        """The value of `xmp:Rating`: 0 to 5, or -1."""
        if self.reject_below is not None and score < self.reject_below:
            return REJECTED
        return str(bisect_right(self.thresholds, score))


def stars_of(text: str, reject_below: float | None, database: Database, question: str) -> Stars:
    """The rule that --stars names, for the scores of a question in the view `rows`.

    Raises:
        UsageError: it is none.
    """
    parts = (_FIFTHS[1] if text == _FIFTHS[0] else text).split(",")
    shares = all(part.endswith("%") for part in parts)
    try:
        numbers = [float(part.removesuffix("%")) for part in parts]
        # Of points and shares together, one of the points has a percent sign.
        rising = all(map(isfinite, numbers)) and sorted(numbers) == numbers
        is_right = len(numbers) == 5 and rising and (shares or "%" not in text)
    except ValueError:
        is_right = False
    if not is_right or (shares and not 0 <= numbers[0] <= numbers[-1] <= 100):
        raise UsageError(
            f"--stars takes five rising thresholds in points, such as {DEFAULT}, or shares of the pictures, such as "
            f"50%,75%,90%,97%,99%, or quantiles (fifths), not {text!r}."
        )
    if shares:
        column, at = identifier(question), ", ".join(str(number / 100) for number in numbers)
        sql = f"SELECT quantile_cont({column}, [{at}]) FROM rows WHERE {column} IS NOT NULL"
        numbers = database.rows(sql)[0][0] or numbers
    return Stars(tuple(numbers), reject_below)
