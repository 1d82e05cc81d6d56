"""Text for people, terminal-safe strings, counts and durations; and values for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import IO, Any

from artimuse_actor.uris import without_secrets


def json_value(value: Any) -> Any:
    """A value that JSON has: NaN and infinity as null, decimals as numbers, times and the like as text."""
    if isinstance(value, Mapping):
        return {str(name): json_value(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(part) for part in value]
    if isinstance(value, Decimal):
        value = int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def show(text: str = "", file: IO[str] | None = None) -> None:
    """Print a line for people: without secrets, and without the control characters that names of strangers may have."""
    print(printable(without_secrets(text)), file=file, flush=True)


def printable(text: str) -> str:
    """Any text with its control characters escaped, so that a terminal does not obey them."""
    return "".join(
        mark if mark.isprintable() or mark == "\n" else mark.encode("unicode_escape").decode() for mark in text
    )


def one_line_name(name: str) -> str:
    """A name of a file or column within a sentence: line breaks are escaped too, so that it cannot add lines."""
    return printable(name).replace("\n", "\\n")


def by_count(counts: Mapping[str, int], *, at_most: int | None = None) -> str:
    """Numbers by name, the largest first, equal ones by name: 12 missing, 3 empty."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {name}" for name, count in ranked[:at_most])


def format_seconds(seconds: float) -> str:
    """A duration for people: 42 s, 3 min 20 s, 5 h 12 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"
