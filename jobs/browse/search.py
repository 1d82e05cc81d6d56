"""A search in a store as a page asks for it, read from the parameters of a request, and as SQL."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from artimuse_actor.errors import UsageError
from jobs.storage.user_files import is_unicode
from jobs.store.database import identifier, quoted
from schemas.scores import ERROR, OK

NAMES, TEXTS, ALL = "names", "texts", "all"
"""Scopes of words: ids, paths and errors; texts; both."""

MAX_WORDS: Final = 200
_SORTS: Final = ("score", "spread", "date", "name", "pixels")
_ORDERS: Final = ("down", "up")
_NAMED: Final = ("image_id", "uri", "error_type", "error_message")


@dataclass(frozen=True)
class Search:
    """Everything that decides which rows are shown, and in which order.

    Attributes:
        question: the score that counts.
        words: what a name, an error or a text contains, in upper or lower case; empty for anything.
        scope: where the words are looked for.
        score: least and largest score; None for no bound.
        spread: likewise.
        days: first and last day.
        format: of the file; None for any.
        outcome: `ok`, `error`, or a type of error; None for any.
        marked: whether only marked pictures are shown.
        sort: one of `_SORTS`.
        descending: whether the largest come first.
    """

    question: str
    words: str = ""
    scope: str = NAMES
    score: tuple[float | None, float | None] = (None, None)
    spread: tuple[float | None, float | None] = (None, None)
    days: tuple[date | None, date | None] = (None, None)
    format: str | None = None
    outcome: str | None = None
    marked: bool = False
    sort: str = "score"
    descending: bool = True

    @classmethod
    def of(cls, asked: Mapping[str, str], questions: tuple[str, ...]) -> Search:
        """The search that parameters ask for. Raises UsageError."""
        words = asked.get("words", "").strip()
        if len(words) > MAX_WORDS or "\0" in words or not is_unicode(words):
            raise UsageError(f"Search for a text of at most {MAX_WORDS} characters.")
        columns = questions or ("",)
        return cls(
            question=_one_of("question", asked.get("question", columns[0]), columns),
            words=words,
            scope=_one_of("scope", asked.get("scope", NAMES), (NAMES, TEXTS, ALL)),
            score=(_number(asked, "score_from"), _number(asked, "score_to")),
            spread=(_number(asked, "spread_from"), _number(asked, "spread_to")),
            days=(_day(asked, "day_from"), _day(asked, "day_to")),
            format=_name(asked, "format"),
            outcome=_name(asked, "outcome"),
            marked=asked.get("marked") == "1",
            sort=_one_of("sort", asked.get("sort", "score"), _SORTS),
            descending=_one_of("order", asked.get("order", "down"), _ORDERS) == "down",
        )

    @property
    def asks_texts(self) -> bool:
        """Whether texts are searched."""
        return bool(self.words) and self.scope != NAMES

    def condition(self, found_in_texts: str, marked: str) -> str:
        """The condition on a row of the catalogue, as SQL; the arguments are tables with a column `image_id`."""
        parts = [*self._words(found_in_texts), *self._bounds()]
        if self.format is not None:
            parts.append(f"format = {quoted(self.format)}")
        if self.outcome in (OK, ERROR):
            parts.append(f"status = {quoted(self.outcome)}")
        elif self.outcome is not None:
            parts.append(f"error_type = {quoted(self.outcome)}")
        if self.marked:
            parts.append(f"image_id IN (SELECT image_id FROM {marked})")
        return " AND ".join(parts) or "true"

    def _words(self, found_in_texts: str) -> list[str]:
        if not self.words:
            return []
        parts = []
        if self.scope != TEXTS:
            parts += [contains(name, self.words) for name in _NAMED]
        if self.scope != NAMES:
            parts.append(f"image_id IN (SELECT image_id FROM {found_in_texts})")
        return [f"({' OR '.join(parts)})"]

    def _bounds(self) -> list[str]:
        columns = ((self.score, self.question), (self.spread, f"{self.question}_std")) if self.question else ()
        parts = []
        for (least, largest), name in columns:
            parts += [f"{identifier(name)} >= {least!r}"] if least is not None else []
            parts += [f"{identifier(name)} <= {largest!r}"] if largest is not None else []
        first, last = self.days
        parts += [f"moment >= DATE '{first}'"] if first else []
        parts += [f"moment < DATE '{last + timedelta(days=1)}'"] if last and last < date.max else []
        return parts

    def order(self) -> str:
        """The order of the rows, as SQL: always the same, and rows without what they are sorted by come last."""
        if not self.question and self.sort in ("score", "spread"):
            return "number"
        by = {
            "score": identifier(self.question),
            "spread": identifier(f"{self.question}_std"),
            "date": "moment",
            "name": "image_id",
            "pixels": "width::BIGINT * height",
        }[self.sort]
        return f"{by} {'DESC' if self.descending else 'ASC'} NULLS LAST, number"


def contains(column: str, words: str) -> str:
    """Whether a column contains a text, in upper or lower case, as SQL."""
    pattern = words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"{identifier(column)} ILIKE {quoted(f'%{pattern}%')} ESCAPE '\\'"


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise UsageError(f"{name} takes {', '.join(allowed)}.")
    return value


def _name(asked: Mapping[str, str], name: str) -> str | None:
    value = asked.get(name) or None
    if value is not None and (len(value) > MAX_WORDS or "\0" in value or not is_unicode(value)):
        raise UsageError(f"{name} takes a name of at most {MAX_WORDS} characters.")
    return value


def _number(asked: Mapping[str, str], name: str) -> float | None:
    text = asked.get(name, "").strip()
    try:
        number = float(text) if text else None
    except ValueError:
        number = math.nan
    if number is not None and not math.isfinite(number):
        raise UsageError(f"{name} takes a number.")
    return number


def _day(asked: Mapping[str, str], name: str) -> date | None:
    text = asked.get(name, "").strip()
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise UsageError(f"{name} takes a day such as 2026-11-27.") from None
