"""Times as options have them: durations, and times of day."""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta
from typing import Final

from artimuse_actor.errors import UsageError

_DURATION: Final = re.compile(r"(?:(?P<hours>\d+)h)?(?:(?P<minutes>\d+)m)?(?:(?P<seconds>\d+)s)?")
_TIME_OF_DAY: Final = re.compile(r"(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)")


def duration(option: str, text: str) -> timedelta:
    """Read `6h`, `90m` or `1h30m`.

    Raises:
        UsageError: it is none, or zero; the message names the option.
    """
    found = _DURATION.fullmatch(text)
    try:
        length = timedelta(**{unit: int(number or 0) for unit, number in found.groupdict().items()}) if found else None
    except (OverflowError, ValueError):  # of more than there is, or of thousands of digits
        length = None
    if not length:
        raise UsageError(f"{option} takes a time such as 6h, 90m or 1h30m, not {text!r}.")
    return length


def next_time(option: str, text: str, now: datetime) -> datetime:
    """The next time that a clock on the wall shows `07:00`; `now` and the result are local, without a zone.

    Raises:
        UsageError: it is no time of day; the message names the option.
    """
    found = _TIME_OF_DAY.fullmatch(text)
    if not found:
        raise UsageError(f"{option} takes a time of day such as 07:00, not {text!r}.")
    wanted = datetime.combine(now, time(int(found["hour"]), int(found["minute"])))
    return wanted if wanted > now else wanted + timedelta(days=1)


def end_of_time(max_time: str | None, until: str | None) -> float | None:
    """When --max-time or --until end a run that begins now, whichever is first, in seconds since the epoch."""
    now = datetime.now()
    ends = []
    if max_time is not None:
        ends.append(now.timestamp() + duration("--max-time", max_time).total_seconds())
    if until is not None:
        ends.append(next_time("--until", until, now).timestamp())  # where clocks are put forward or back, as they show
    return min(ends, default=None)
