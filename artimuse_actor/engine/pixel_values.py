"""Pixels as the vision tower takes them: on its device, normalised by ImageNet's mean and deviation."""

from __future__ import annotations

from typing import Final

import torch

from artimuse_actor.engine.copy_stream import CopyStream

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


class PixelValues:
    """Copies pixels to a device, and normalises them there: a fourth of the bytes that the values take."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        """Prepare the device, for values of this dtype."""
        self._dtype = dtype
        self._mean, self._std = (
            torch.tensor(part, device=device).reshape(1, 3, 1, 1) for part in (IMAGENET_MEAN, IMAGENET_STD)
        )
        self._copies = CopyStream(device)

    def of(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scale and normalise pixels.

        Args:
            pixels: (B, 448, 448, 3) uint8, RGB, on any device.

        Returns:
            (B, 3, 448, 448) in the dtype, of 0…1 less ImageNet's mean over its deviation in float32.
        """
        values = self._copies.copy(pixels).permute(0, 3, 1, 2).float() / 255  # (B, 3, 448, 448)
        return ((values - self._mean) / self._std).to(self._dtype)
