"""Names with braces, as WebDataset writes them: `{00000..00999}.tar`, `{train,val}/part.parquet`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import Final

from artimuse_actor.errors import UsageError

_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_RANGE: Final = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_MOST: Final = 1_000_000


def expand_braces(name: str) -> list[str]:
    """All names that one with braces stands for, in order; of a name without, itself alone.

    A range of numbers has leading zeros if its first number has. Braces around anything else stand for themselves.

    Raises:
        UsageError: they are more than a million.
    """
    names = []
    for expanded in _expanded(name):
        names.append(expanded)
        if len(names) > _MOST:
            raise UsageError(f"{name}: stands for more than {_MOST:,} names.")
    return names


def _expanded(name: str) -> Iterator[str]:
    for match in _BRACES.finditer(name):
        choices = _choices(match[1])
        if choices is not None:
            before, after = name[: match.start()], name[match.end() :]
            yield from chain.from_iterable(_expanded_after(before + choice, after) for choice in choices)
            return
    yield name


def _expanded_after(before: str, after: str) -> Iterator[str]:
    return (before + rest for rest in _expanded(after))


def _choices(inside: str) -> Iterator[str] | None:
    if match := _RANGE.fullmatch(inside):
        first, last = int(match[1]), int(match[2])
        width = len(match[1])
        step = 1 if last >= first else -1
        return (f"{number:0{width}}" for number in range(first, last + step, step))
    return iter(inside.split(",")) if "," in inside else None


def has_braces(name: str) -> bool:
    """Whether a name stands for several."""
    return any(_choices(match[1]) is not None for match in _BRACES.finditer(name))


def above_braces(name: str) -> str:
    """The folder above the first part of a name with braces."""
    parts = name.split("/")
    fixed = next(number for number, part in enumerate(parts) if _BRACES.search(part))
    return "/".join(parts[:fixed])
