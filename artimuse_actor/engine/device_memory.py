"""A device's memory: its limit, the errors by which it says that none is left, and what gives it back."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

_OUT_OF_MEMORY: Final = re.compile(
    r"out of memory"  # the driver, an AcceleratorError, a graph that cannot be instantiated, MPS
    r"|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"
    r"|CUBLAS_STATUS_NOT_INITIALIZED"  # cublasCreate, when its workspace does not fit
    r"|cudaErrorMemoryAllocation|hipErrorOutOfMemory|can't allocate memory"
)


def limit_memory(device: torch.device) -> None:
    """Let an Apple machine's GPU run out of memory at what Metal recommends as the most, so that batches get smaller.

    torch's own limit is 1.7 times that, more than most of these machines have: before an error, they swap. A limit that
    the environment sets is left as it is.
    """
    if device.type == "mps" and "PYTORCH_MPS_HIGH_WATERMARK_RATIO" not in os.environ:
        torch.mps.set_per_process_memory_fraction(1.0)


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
