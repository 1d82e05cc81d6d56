"""The one retry loop of all reads, and the gate that limits concurrent requests to a server.

A reader turns a transient failure (a reset, a stall, a 503) into `TryAgain`; any other exception ends the loop. The
libraries below are configured not to retry by themselves, since layers of retries multiply.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Final, TypeVar

from artimuse_actor.errors import ImageError
from artimuse_actor.fetch.options import FetchOptions

_T = TypeVar("_T")
_THROTTLED: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_TRANSIENT: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_PATIENCE: Final = 8  # files in a row for which a server may be too slow
_SLOWEST: Final = 24  # …and after which it is asked no more: each may take half a minute
_SILENCE: Final = 3  # files in a row for which it may not answer at all, each attempted as often as allowed
_PROBE_EVERY_S: Final = 30.0


class TryAgain(Exception):  # noqa: N818 (said by readers to the loop below, and by nobody else)
    """An attempt failed in a way that may be transient.

    Attributes:
        throttled: whether the server asked for fewer requests.
        after_s: seconds the server asked to wait.
        is_slow: whether it took a timeout to find out.
        no_answer: whether the server did not answer: no connection, or one that ended without an answer.
    """

    def __init__(
        self,
        reason: str,
        *,
        throttled: bool = False,
        after_s: float = 0.0,
        is_slow: bool = False,
        no_answer: bool = False,
    ) -> None:
        """Say what went wrong, without a full stop."""
        super().__init__(reason)
        self.is_slow = is_slow
        self.no_answer = no_answer
        self.throttled = throttled
        self.after_s = after_s


class Gate:
    """A limit on concurrent requests to one server; there is none until the server asks for fewer.

    Then half as many, and one more for every successful round: additive increase and multiplicative decrease, by
    which TCP shares a line among senders that know nothing of each other, as our tasks do.

    Attributes:
        width: requests at a time, from 1.
        served: number of successful requests so far.
        given_up: files in a row that were given up since the server was too slow for all attempts.
        unanswered: files in a row that were given up since the server did not answer any attempt.
    """

    def __init__(self) -> None:
        """No limit yet."""
        self.width = math.inf
        self.served = 0
        self.given_up = 0
        self.unanswered = 0
        self._active = 0
        self._probed_at_s = -math.inf
        self._narrowed_at_s = -math.inf
        self._left = asyncio.Event()

    async def __aenter__(self) -> None:
        while self._active + 1 > self.width:
            self._left.clear()
            await self._left.wait()
        self._active += 1

    async def __aexit__(self, *_: object) -> None:
        self._active -= 1
        self._left.set()

    @property
    def is_patient(self) -> bool:
        """Whether the server has earned more than one attempt at a file."""
        return self.given_up < _PATIENCE

    @property
    def is_silent(self) -> bool:
        """Whether the server has not answered for so many files that the next ones need not wait for it."""
        return self.unanswered >= _SILENCE

    @property
    def is_hopeless(self) -> bool:
        """Whether the next files need not wait for the server, since it is silent, or was too slow for many more."""
        return self.is_silent or self.given_up >= _SLOWEST

    def may_probe(self, now_s: float) -> bool:
        """Whether a hopeless server may be asked now, as every half minute; the caller then asks it."""
        if now_s - self._probed_at_s < _PROBE_EVERY_S:
            return False
        self._probed_at_s = now_s
        return True

    def give_up(self, failure: TryAgain, now_s: float) -> None:
        """Count a file whose last attempt failed."""
        self.given_up += failure.is_slow
        self.unanswered = self.unanswered + 1 if failure.no_answer else 0
        if self.unanswered == _SILENCE or self.given_up == _SLOWEST:
            self._probed_at_s = now_s

    def widen(self) -> None:
        """Count a successful request."""
        self.served += 1
        self.given_up = self.unanswered = 0
        self.width += 1 / self.width

    def narrow(self, started_s: float, now_s: float) -> None:
        """A request that began at `started_s` was throttled; call it before that request leaves."""
        if started_s >= self._narrowed_at_s:  # requests already under way carry no new information
            self.width = max(1.0, min(self.width, self._active) / 2)
            self._narrowed_at_s = now_s


@lru_cache(maxsize=1024)
def gate_of(server: str) -> Gate:  # noqa: ARG001 (the key of the cache)
    """The gate of a server, one for the whole process; the least recently asked ones are forgotten."""
    return Gate()


os.register_at_fork(after_in_child=gate_of.cache_clear)  # requests under way in the parent never end in the child


async def retrying(attempt: Callable[[], Awaitable[_T]], gate: Gate, options: FetchOptions) -> _T:
    """Attempt something until it succeeds, fails for good, or reaches the limit of attempts or time.

    Waits are exponential with full jitter. An attempt that is throttled while others succeed does not count as one,
    but its time does: the server works, and asks only for a slower pace. A server that was too slow for many files in a
    row gets one attempt at each further one, as long as one read may take. One that was too slow for many more, or did
    not answer at all for a few, is asked for one each half minute alone, so that it cannot hold a unit for hours.

    Args:
        attempt: one attempt; raises `TryAgain` if another may go better.
        gate: of the server. Waiting at the gate does not count towards the file's time limit.
        options: see `FetchOptions`.

    Raises:
        ImageError: `fetch_failed`, with the last reason and the number of attempts.
    """
    clock = asyncio.get_running_loop().time
    is_probe = gate.is_hopeless
    if is_probe and not gate.may_probe(clock()):
        raise _not_asked(gate)
    tried, counted, spent_s = 0, 0, 0.0
    while True:
        served = gate.served
        async with gate:
            limit_s = options.total_timeout_s if gate.is_patient or tried else options.read_timeout_s
            attempts = options.attempts if gate.is_patient and not is_probe else 1
            started_s = clock()
            try:
                async with asyncio.timeout(limit_s - spent_s):
                    result = await attempt()
            except TryAgain as error:
                failure = error
                if failure.throttled:
                    gate.narrow(started_s, clock())
            except ImageError:  # the server has answered
                gate.unanswered = 0
                raise
            except TimeoutError:
                failure = TryAgain(f"{limit_s:g} s were not enough", is_slow=True)
            else:
                gate.widen()
                return result
        spent_s += clock() - started_s
        tried += 1
        counted += not (failure.throttled and gate.served > served)
        longest_s = min(options.first_wait_s * 2.0 ** min(tried - 1, 60), options.longest_wait_s)
        wait_s = max(random.uniform(0, longest_s), min(failure.after_s, options.longest_wait_s))
        if failure.no_answer and gate.is_silent and not is_probe:  # as others have found out meanwhile
            raise _not_asked(gate) from failure
        if counted >= attempts or spent_s + wait_s >= limit_s:
            gate.give_up(failure, clock())
            times = "once" if tried == 1 else f"{tried} times"
            raise ImageError(
                "fetch_failed", f"{failure}; tried {times} in {spent_s:.0f} s.", retryable=True
            ) from failure
        await asyncio.sleep(wait_s)
        spent_s += wait_s


def _not_asked(gate: Gate) -> ImageError:
    what = f"did not answer for {gate.unanswered}" if gate.is_silent else f"was too slow for {gate.given_up}"
    return ImageError(
        "fetch_failed", f"The server {what} files in a row, so it was not asked for this one.", retryable=True
    )


def try_again_later(status: int, reason: str, retry_after: str | None) -> TryAgain | None:
    """`TryAgain` for an HTTP status worth another attempt; None if another would end the same way.

    Args:
        status: of the answer.
        reason: what the server says, without a full stop.
        retry_after: its Retry-After header, in seconds or as a date.
    """
    if status in _TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return TryAgain(reason, throttled=status in _THROTTLED, after_s=_seconds(retry_after))
    return None


def _seconds(retry_after: str | None) -> float:
    if retry_after is None:
        return 0.0
    try:
        if retry_after.strip().isdecimal():
            return float(retry_after)
        return (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):  # neither, or a date without a time zone
        return 0.0
