"""Copies to a CUDA device on a stream of their own: a batch arrives while the one before it is computed.

Behind the passes, a copy would wait for all of them that were launched before. Elsewhere it is a plain copy.
"""

from __future__ import annotations

import torch


class CopyStream:
    """The stream of a device that nothing but copies runs on."""

    def __init__(self, device: torch.device) -> None:
        """Open it; a device without streams has none."""
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the CPU on the device: the copy waits for no pass, and the passes launched next wait for it."""
        if self._stream is None or tensor.is_cuda:
            return tensor.to(self._device)
        with torch.cuda.stream(self._stream):
            # torch uses the pinned memory for nothing else before this stream has read it.
            copied = tensor.pin_memory().to(self._device, non_blocking=True)
        passes = torch.cuda.current_stream(self._device)
        passes.wait_stream(self._stream)
        # Allocated for the stream of copies, it would be overwritten by the next one, however far the passes are.
        copied.record_stream(passes)
        return copied
