"""How many models work at once, and how many units they are given at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from artimuse_actor.errors import UsageError

MOST_ACTORS: Final = 100_000
WAVE_UNITS: Final = 10_000
WAVE_UNITS_PER_ACTOR: Final = 1_000

_RANGE = re.compile(r"(\d+)(?::(\d+))?")
_T = TypeVar("_T")


@dataclass(frozen=True)
class ActorPool:
    """The models of a run; the pool grows and shrinks between the two numbers while it runs.

    Attributes:
        fewest: how many there are at least.
        most: how many there may be.
    """

    fewest: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= self.most <= MOST_ACTORS:
            raise UsageError(f"--actors takes a whole number from 1 to {MOST_ACTORS:,}, or two as in 1:8, not {self}.")

    @classmethod
    def parse(cls, text: str) -> ActorPool:
        """`8`, or `MIN:MAX`.

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


def waves(units: Sequence[_T], pool: ActorPool) -> Iterator[Sequence[_T]]:
    """Units in portions that are run one after the other.

    The driver and Ray hold a few kilobytes for each unit that they know of, which is why they are told of so many at a
    time only: some hours of work for every model, against which loading it again is nothing.
    """
    size = max(WAVE_UNITS, WAVE_UNITS_PER_ACTOR * pool.most)
    for start in range(0, len(units), size):
        yield units[start : start + size]
