"""A device's memory: what it says when none is left, and the return of what torch keeps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

_OUT_OF_MEMORY: Final = re.compile(r"out of memory")  # also MPS, as a RuntimeError


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise every error by which a device or a library says that memory is short as torch.OutOfMemoryError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if _OUT_OF_MEMORY.search(str(error)):
            raise torch.OutOfMemoryError(str(error)) from error
        raise


def release_memory(device: torch.device) -> None:
    """Give memory that torch keeps for later back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
