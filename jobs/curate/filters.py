"""The conditions that a row must meet by itself, each read from its option, in the order in which they are applied.

A filter looks at one row at a time, so filters commute: another order removes the same rows, only by other names. How
good a row is compared with others is for `quotas`, what it looks like beside others for `near_duplicates`.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from artimuse_actor.errors import UsageError, one_line
from artimuse_actor.images.options import FORMATS
from artimuse_actor.images.raw_kind import RAW_KINDS
from jobs.curate.where import MAX_CHARACTERS, parse_condition
from jobs.store.database import identifier, quoted
from schemas.scores import OK

TEXT_MATCHES: Final = "one of the texts matches"
"""A column that a store's rows have on request."""

_FORMATS: Final = (*FORMATS, "MPO", *sorted(RAW_KINDS))
_FORMATS_BY_OTHER_NAMES: Final = {"JPG": "JPEG", "JP2": "JPEG2000", "TIF": "TIFF", "HEIC": "HEIF"}
_SIDES: Final = frozenset(("width", "height"))
_ASPECT_TOLERANCE: Final = Fraction(2, 100)  # 1920×1088 counts as 16:9


@dataclass(frozen=True)
class Filter:
    """One condition.

    Attributes:
        name: as the funnel shows it: the option and its value.
        sql: an expression; a row meets the condition if it is true, and not if it is null.
        names: of the columns it reads, in lower case.
    """

    name: str
    sql: str
    names: frozenset[str]


@dataclass(frozen=True)
class FilterOptions:
    """The options of `artimuse curate` that are filters, as the user gave them; None where there is none.

    Attributes:
        min_score: points, inclusive.
        max_score: points, inclusive.
        max_std: points, inclusive; rows of which the model is less sure are dropped.
        min_side: pixels of the shorter side, inclusive.
        aspect: width:height, or a range of it such as `3:4..16:9`.
        format: names of file formats, with commas between them.
        where: see `jobs.curate.where`.
        text_matches: a regular expression (RE2) that one of the texts must match.
    """

    min_score: float | None = None
    max_score: float | None = None
    max_std: float | None = None
    min_side: int | None = None
    aspect: str | None = None
    format: str | None = None
    where: str | None = None
    text_matches: str | None = None


def scored_rows(score_column: str) -> Filter:
    """The filter that always comes first: an error row is never chosen."""
    sql = f"status = {quoted(OK)} AND isfinite({identifier(score_column)})"
    return Filter("error rows", sql, frozenset(("status", score_column.lower())))


def read_filters(options: FilterOptions, score_column: str, schema: pa.Schema) -> list[Filter]:
    """The filters that were asked for, in the order in which they are applied.

    Args:
        options: as the user gave them.
        score_column: which score counts; its spread is in the column of the same name with `_std`.
        schema: of all columns there are.

    Raises:
        UsageError: a value is not valid.
    """
    std = f"{score_column}_std"
    found = [
        _bound("--min-score", options.min_score, score_column, ">="),
        _bound("--max-score", options.max_score, score_column, "<="),
        _bound("--max-std", options.max_std, std, "<="),
        _min_side(options.min_side),
        _aspect(options.aspect),
        _format(options.format),
        _where(options.where, schema),
        _text_matches(options.text_matches),
    ]
    if None not in (options.min_score, options.max_score) and options.min_score > options.max_score:  # type: ignore[operator]
        raise UsageError(f"--min-score {options.min_score:g} is above --max-score {options.max_score:g}.")
    return [one for one in found if one is not None]


def check_pattern(option: str, pattern: str) -> None:
    """Raise UsageError if a regular expression is too long, or not one for RE2.

    RE2 takes time linear in the text and 8 MB for a pattern, whatever that is; larger ones it refuses.
    """
    if len(pattern) > MAX_CHARACTERS:
        raise UsageError(f"{option} takes at most {MAX_CHARACTERS:,} characters, not {len(pattern):,}.")
    try:
        pc.match_substring_regex(pa.array([""]), pattern)
    except (pa.ArrowException, UnicodeEncodeError) as error:  # the latter with a lone surrogate
        raise UsageError(
            f"{option} {pattern[:80]!r}: is no regular expression (RE2): {one_line(str(error))}."
        ) from error


def _bound(option: str, bound: float | None, column: str, compare: str) -> Filter | None:
    if bound is None:
        return None
    if not math.isfinite(bound):
        raise UsageError(f"{option} takes a number of points, not {bound}.")
    return Filter(
        f"{option} {bound:g}", f"{identifier(column)} {compare} {_double(bound)}", frozenset((column.lower(),))
    )


def _min_side(pixels: int | None) -> Filter | None:
    if pixels is None:
        return None
    if pixels < 1:
        raise UsageError(f"--min-side takes a whole number of pixels from 1, not {pixels}.")

    return Filter(f"--min-side {pixels}", f"least(width, height) >= {pixels}", _SIDES)


def _aspect(text: str | None) -> Filter | None:
    if text is None:
        return None
    low, dots, high = text.partition("..")
    smallest, largest = _ratio(low, text) if low or not dots else None, _ratio(high, text) if high else None
    if not dots and smallest is not None:
        smallest, largest = smallest * (1 - _ASPECT_TOLERANCE), smallest * (1 + _ASPECT_TOLERANCE)
    if (smallest is None and largest is None) or (smallest and largest and smallest > largest):
        raise UsageError(f"--aspect {text}: goes from the narrower to the wider, such as 3:4..16:9.")

    # Whole numbers below 2^31 times small ones: exact, so that 3:4 itself is in 3:4..16:9.
    conditions = [
        f"width * {_double(ratio.denominator)} {compare} height * {_double(ratio.numerator)}"
        for ratio, compare in ((smallest, ">="), (largest, "<="))
        if ratio is not None
    ]
    return Filter(f"--aspect {text}", " AND ".join(conditions), _SIDES)


def _double(number: float) -> str:
    """A number as SQL writes a DOUBLE: another literal may be a DECIMAL."""
    return f"{float(number)!r}::DOUBLE"


def _ratio(text: str, whole: str) -> Fraction:
    match = re.fullmatch(r"\s*(\d{1,5}(?:\.\d{1,5})?)\s*(?::\s*(\d{1,5}(?:\.\d{1,5})?)\s*)?", text)
    if not match or not Fraction(match[1]) or not Fraction(match[2] or 1):
        raise UsageError(f"--aspect {whole}: takes width:height such as 16:9, or a range such as 3:4..16:9 or 1:1.. .")
    return Fraction(match[1]) / Fraction(match[2] or 1)


def _format(text: str | None) -> Filter | None:
    if text is None:
        return None
    formats = []
    for name in (part.strip().upper() for part in text.split(",")):
        known = _FORMATS_BY_OTHER_NAMES.get(name, name)
        if known not in _FORMATS:
            if known in ("PARQUET", "JSONL", "CSV", "WEBDATASET"):
                raise UsageError(
                    f"--format chooses images by their file format. To write {known.lower()}, use --as {known.lower()}."
                )
            near = difflib.get_close_matches(known, _FORMATS, n=1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(f"--format: there is no {name!r}.{meant} There are {', '.join(_FORMATS)}.")
        formats += [known, "MPO"] if known == "JPEG" else [known]  # what cameras write is called .jpg all the same
    among = ", ".join(map(quoted, sorted(set(formats))))
    return Filter(f"--format {text}", f"format IN ({among})", frozenset(("format",)))


def _where(text: str | None, schema: pa.Schema) -> Filter | None:
    if text is None:
        return None
    condition = parse_condition(text, schema)
    return Filter(f"--where {text}", condition.sql, condition.names)


def _text_matches(pattern: str | None) -> Filter | None:
    if pattern is None:
        return None
    check_pattern("--text-matches", pattern)
    return Filter(f"--text-matches {pattern}", identifier(TEXT_MATCHES), frozenset((TEXT_MATCHES,)))
