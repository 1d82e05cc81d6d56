"""The conditions that a row must meet by itself, each read from its option, in the order in which they are applied.

A filter looks at one row at a time, so filters commute: another order removes the same rows, only by other names. How
good a row is compared with others is for `quotas`, what it looks like beside others for `near_duplicates`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from artimuse_actor.errors import UsageError, one_line
from jobs.curate.where import MAX_CHARACTERS, parse_condition
from schemas.scores import OK

TEXT_MATCHES: Final = "text_matches"
"""A column that a store's rows have on request: true if any text matches the pattern."""

_FORMATS: Final = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM")
_FORMATS_BY_OTHER_NAMES: Final = {"JPG": "JPEG", "JP2": "JPEG2000", "TIF": "TIFF"}
_ASPECT_TOLERANCE: Final = Fraction(2, 100)  # 1920×1088 counts as 16:9


@dataclass(frozen=True)
class Filter:
    """One condition.

    Attributes:
        name: as the funnel shows it: the option and its value.
        columns: the columns it reads.
        keeps: of a table with these columns, which rows meet it: boolean, without nulls.
    """

    name: str
    columns: tuple[str, ...]
    keeps: Callable[[pa.Table], pa.ChunkedArray]


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

    def keeps(rows: pa.Table) -> Any:
        scored = pc.is_finite(pc.fill_null(rows[score_column], math.nan))
        return pc.and_(pc.equal(rows["status"], OK), scored)

    return Filter("error rows", ("status", score_column), keeps)


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
        _bound("--min-score", options.min_score, score_column, pc.greater_equal),
        _bound("--max-score", options.max_score, score_column, pc.less_equal),
        _bound("--max-std", options.max_std, std, pc.less_equal),
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


def _bound(option: str, bound: float | None, column: str, compare: Callable[[Any, Any], Any]) -> Filter | None:
    if bound is None:
        return None
    if not math.isfinite(bound):
        raise UsageError(f"{option} takes a number of points, not {bound}.")
    # In float64: 70.1 is no float32, and a score must not be compared with its neighbour.
    keeps = lambda rows: pc.fill_null(compare(rows[column].cast(pa.float64()), bound), False)  # noqa: E731
    return Filter(f"{option} {bound:g}", (column,), keeps)


def _min_side(pixels: int | None) -> Filter | None:
    if pixels is None:
        return None
    if pixels < 1:
        raise UsageError(f"--min-side takes a whole number of pixels from 1, not {pixels}.")

    def keeps(rows: pa.Table) -> Any:
        return pc.fill_null(pc.greater_equal(pc.min_element_wise(rows["width"], rows["height"]), pixels), False)

    return Filter(f"--min-side {pixels}", ("width", "height"), keeps)


def _aspect(text: str | None) -> Filter | None:
    if text is None:
        return None
    low, dots, high = text.partition("..")
    smallest, largest = _ratio(low, text) if low or not dots else None, _ratio(high, text) if high else None
    if not dots and smallest is not None:
        smallest, largest = smallest * (1 - _ASPECT_TOLERANCE), smallest * (1 + _ASPECT_TOLERANCE)
    if (smallest is None and largest is None) or (smallest and largest and smallest > largest):
        raise UsageError(f"--aspect {text}: goes from the narrower to the wider, such as 3:4..16:9.")

    def keeps(rows: pa.Table) -> Any:
        # Whole numbers below 2^31 times small ones: exact, so that 3:4 itself is in 3:4..16:9.
        width, height = rows["width"].cast(pa.float64()), rows["height"].cast(pa.float64())
        kept = pc.is_valid(width)
        if smallest is not None:
            wide = pc.multiply(width, float(smallest.denominator))
            kept = pc.and_(kept, pc.greater_equal(wide, pc.multiply(height, float(smallest.numerator))))
        if largest is not None:
            wide = pc.multiply(width, float(largest.denominator))
            kept = pc.and_(kept, pc.less_equal(wide, pc.multiply(height, float(largest.numerator))))
        return pc.fill_null(kept, False)

    return Filter(f"--aspect {text}", ("width", "height"), keeps)


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
    among = pa.array(sorted(set(formats)), pa.string())
    keeps = lambda rows: pc.is_in(rows["format"].cast(pa.string()), among)  # noqa: E731
    return Filter(f"--format {text}", ("format",), keeps)


def _where(text: str | None, schema: pa.Schema) -> Filter | None:
    if text is None:
        return None
    condition = parse_condition(text, schema)
    return Filter(f"--where {text}", condition.columns, condition.holds)


def _text_matches(pattern: str | None) -> Filter | None:
    if pattern is None:
        return None
    check_pattern("--text-matches", pattern)
    return Filter(f"--text-matches {pattern}", (TEXT_MATCHES,), lambda rows: pc.fill_null(rows[TEXT_MATCHES], False))
