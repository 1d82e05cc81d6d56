"""Images a second of a loaded model, and what share that is of the matrix products the device can do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch

from artimuse_actor.artimuse import ArtiMuse
from artimuse_actor.engine.device import dtype_name
from artimuse_actor.verify.counted_flops import flop_counter
from artimuse_actor.verify.golden import golden_pixels

_ROUNDS: Final = 5
_PRODUCTS: Final = 10
_MATRIX_SIZES: Final = {"cpu": 1024, "mps": 4096, "cuda": 8192}


@dataclass(frozen=True)
class Speed:
    """The speed of scores on one device in one precision.

    Attributes:
        precision: of the network.
        batch_size: images of a pass.
        images_per_s: the median of a few passes; pictures are in memory and decoded.
        flop_per_image: floating-point operations of the products of a pass, counted as it runs.
        peak_flop_per_s: what the device reaches in one large product in this precision.
    """

    precision: str
    batch_size: int
    images_per_s: float
    flop_per_image: float
    peak_flop_per_s: float

    @property
    def peak_share(self) -> float:
        """Share of the matrix peak, from 0 to 1."""
        return self.images_per_s * self.flop_per_image / self.peak_flop_per_s

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {**asdict(self), "peak_share": self.peak_share}


def measure_speed(model: ArtiMuse) -> Speed:
    """Score full batches of the golden pictures, and count the operations of one."""
    pixels = np.resize(golden_pixels(), (model.batch_size, *golden_pixels().shape[1:]))
    model.score_pixels(pixels)  # libraries initialise in their first call
    with flop_counter() as counted:
        model.score_pixels(pixels)
    seconds = []
    for _ in range(_ROUNDS):
        began = perf_counter()
        model.score_pixels(pixels)  # ends with a copy to the CPU, so nothing is pending
        seconds.append(perf_counter() - began)
    return Speed(
        precision=dtype_name(model.model.dtype),
        batch_size=model.batch_size,
        images_per_s=len(pixels) / median(seconds),
        flop_per_image=counted.get_total_flops() / len(pixels),
        peak_flop_per_s=matrix_peak(model.model.device, model.model.dtype),
    )


@torch.inference_mode()
def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a product of two large square matrices, the median of a few bursts."""
    size = _MATRIX_SIZES[device.type]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(_ROUNDS + 1):
        began = perf_counter()
        for _ in range(_PRODUCTS):
            product = left @ right
        product[0, 0].item()  # waits for the last one
        seconds.append(perf_counter() - began)
    return 2 * size**3 * _PRODUCTS / median(seconds[1:])
