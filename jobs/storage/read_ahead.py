"""Work on some items before their results are asked for, so that whoever uses them does not wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_A = TypeVar("_A")
_B = TypeVar("_B")


def read_ahead(work: Callable[[_A], _B], items: Iterable[_A], threads: int, ahead: int) -> Iterator[_B]:
    """The results in order.

    Args:
        work: makes one of them, in a thread.
        items: what they are made of.
        threads: how many work at the same time.
        ahead: results that may wait to be asked for, at most.
    """
    waiting: deque[Future[_B]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
