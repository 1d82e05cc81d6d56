"""Decoding with a limit on time and memory that holds whatever the decoder does, natively or in Python.

Time: an alarm that ends the process, since a decoder in C that never returns, or never releases the interpreter lock,
leaves no other way. To survive it, decode in a child process, see `child_decoder`.

Memory: see `memory_limit`.
"""

from __future__ import annotations

import signal
import threading

from artimuse_actor.errors import ImageError
from artimuse_actor.images.decode import DecodedImage, decode_image
from artimuse_actor.images.diagnosis import memory_limit_reached
from artimuse_actor.images.memory_limit import memory_limit
from artimuse_actor.images.options import DecodeOptions


def can_limit_this_process() -> bool:
    """True if this process can use its single alarm for decoding."""
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
    with memory_limit(options.decoder_memory_bytes + others_bytes) as allocation_failed:
        signal.setitimer(signal.ITIMER_REAL, options.decoder_timeout_s)
        try:
            image = decode_image(data, options)
        except ImageError as error:
            # Most libraries only report that they failed, which would be recorded as corrupt.
            if error.error_type != "decoder_memory" and not allocation_failed():
                raise
        else:
            # With --allow-truncated, a decoder that ran out of memory leaves a picture that is grey from there on.
            if not allocation_failed():
                return image
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    raise memory_limit_reached(options)
