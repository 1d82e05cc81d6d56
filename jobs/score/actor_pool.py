"""The number of models that work at the same time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from artimuse_actor.errors import UsageError

MOST_ACTORS: Final = 100_000

_RANGE = re.compile(r"(\d+)(?::(\d+))?")


@dataclass(frozen=True)
class ActorPool:
    """The models of a run; the pool grows and shrinks between the two numbers while it runs.

    Attributes:
        fewest: smallest number of models.
        most: largest number of models.
    """

    fewest: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= self.most <= MOST_ACTORS:
            raise UsageError(f"--actors takes a whole number from 1 to {MOST_ACTORS:,}, or two as in 1:8, not {self}.")

    @classmethod
    def parse(cls, text: str) -> ActorPool:
        """Read `8`, or `MIN:MAX`.

        Raises:
            UsageError: it is neither.
        """
        match = _RANGE.fullmatch(text.strip())
        if match is None:
            raise UsageError(
                f"--actors takes a whole number from 1 to {MOST_ACTORS:,}, or two as in 1:8, not {text!r}."
            )
        return cls(int(match[1]), int(match[2] or match[1]))

    def __str__(self) -> str:
        return str(self.most) if self.fewest == self.most else f"{self.fewest}:{self.most}"
