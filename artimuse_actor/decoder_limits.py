"""Decoding with a limit on time and memory that holds whatever the decoder does, natively or in Python.

Time: an alarm that ends the process, since a decoder in C that never returns, or that keeps the interpreter to itself,
leaves no other way. Who wants to live on decodes in a process made for it, see `child_decoder`.

Memory: the kernel refuses to let the private memory of the process grow further, which the decoder, or Python, meets as
a failed allocation. Shared memory, such as Ray's object store, is not counted. Only Linux does this; elsewhere there is
no limit.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from artimuse_actor.errors import ImageError
from artimuse_actor.images import DecodedImage, DecodeOptions, decode_image


def can_limit_this_process() -> bool:
    """Whether nobody else here needs the alarm, of which a process has one."""
    return (
        threading.current_thread() is threading.main_thread()  # as it is in a task of Ray
        and signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
        and signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    )


def decode_within_limits(data: bytes, options: DecodeOptions, others_bytes: int = 0) -> DecodedImage:
    """`decode_image` with the limits of its options; a decoder that takes too long takes the process with it.

    Args:
        data: the whole file.
        options: see `DecodeOptions`.
        others_bytes: what other threads of the process may allocate meanwhile.

    Raises:
        ImageError: as `decode_image`, or `decoder_memory`.
    """
    with _memory_limit(options.decoder_memory_bytes + others_bytes) as allocation_failed:
        signal.setitimer(signal.ITIMER_REAL, options.decoder_timeout_s)
        try:
            image = decode_image(data, options)
        except ImageError as error:
            # Most libraries say no more than that they failed, which would be called corrupt.
            if error.error_type != "decoder_memory" and not allocation_failed():
                raise
        else:
            # With --allow-truncated, a decoder that ran out of memory leaves a picture that is grey from there on.
            if not allocation_failed():
                return image
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    raise ImageError(
        "decoder_memory",
        f"Decoding it takes more than the limit of {options.decoder_memory_bytes:,} bytes of memory. "
        "Raise it with --decoder-memory and --retry-errors decoder_memory.",
    )


@contextmanager
def _memory_limit(limit_bytes: int) -> Iterator[Callable[[], bool]]:
    """Refuse memory beyond what the process has now and so many bytes; gives what tells whether any was refused."""
    if sys.platform != "linux":
        yield lambda: False
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [_private_bytes() + limit_bytes, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    number = _c_library().__errno_location().contents  # of this thread
    number.value = 0
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield lambda: number.value == errno.ENOMEM  # set by what fails, and left alone by what succeeds
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _private_bytes() -> int:
    """What the process has of the memory that the limit is about."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")


@lru_cache(maxsize=1)
def _c_library() -> Any:
    library = ctypes.CDLL(None)
    library.__errno_location.restype = ctypes.POINTER(ctypes.c_int)
    return library
