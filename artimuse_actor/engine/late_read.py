"""Copies from and to a CUDA device that the host does not wait for: it prepares a batch while another is computed.

Elsewhere they are plain copies.
"""

from __future__ import annotations

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on its way to a device, through a pinned copy."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)  # from other memory, the copy waits for all work before it


class LateRead:
    """A tensor on its way to the CPU."""

    def __init__(self, tensor: torch.Tensor) -> None:
        """Begin the copy, behind the work that makes the tensor and before all later work."""
        # A copy in any case: the tensor may be a graph's, which the next step overwrites. From CUDA into pinned memory.
        self._copy = tensor.to("cpu", non_blocking=tensor.is_cuda, copy=True)
        self._event = torch.cuda.current_stream(tensor.device).record_event() if tensor.is_cuda else None

    def read(self) -> torch.Tensor:
        """The tensor on the CPU; waits until it is there."""
        if self._event is not None:
            self._event.synchronize()
        return self._copy
