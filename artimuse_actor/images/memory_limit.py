"""A limit on the memory of this process while untrusted data is read.

The kernel refuses to let the private memory of the process grow further, which a decoder, Arrow or Python meets as a
failed allocation. Shared memory, such as Ray's object store, is not counted. Only Linux does this; elsewhere there is
no limit.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any


@contextmanager
def memory_limit(limit_bytes: int) -> Iterator[Callable[[], bool]]:
    """Let the process allocate at most so many further bytes.

    Yields:
        A function that returns whether this thread was refused memory.
    """
    if sys.platform != "linux":
        yield lambda: False
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [_private_bytes() + limit_bytes, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    number = _c_library().__errno_location().contents  # of this thread
    number.value = 0
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield lambda: number.value == errno.ENOMEM  # a failing call sets it, a successful one leaves it
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _private_bytes() -> int:
    """Private memory of the process now, in bytes: the data and stack that the limit counts."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")


@lru_cache(maxsize=1)
def _c_library() -> Any:
    library = ctypes.CDLL(None)
    library.__errno_location.restype = ctypes.POINTER(ctypes.c_int)
    return library
