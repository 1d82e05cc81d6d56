"""Products of 8-bit floats: by a card's own units, and in float32 where there are none, with the same rounding.

Both sides of a product are e4m3, three bits of mantissa and at most 448, with a float32 scale for each token and for
each row of the weight: what is scaled and rounded is the same everywhere, and only sums are added in another order. The
scale of a token is taken from the token itself, so a score does not depend on the rest of its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import torch

from artimuse_actor.engine.layer_kernels import has_triton, warn_once
from artimuse_actor.errors import RunError, UsageError, one_line

LARGEST: Final = 448.0
FLOAT8: Final = torch.float8_e4m3fn
# A factor: torch divides by a number exactly on a CPU, and on CUDA multiplies by its inverse.
_INVERSE: Final = 1 / LARGEST
_TINY: Final = torch.finfo(torch.float32).tiny
_ADA: Final = (8, 9)
_STEP: Final = 0.13  # from a float8 to the next, of itself
_AGREEMENT: Final = 0.02  # of the largest product: a card may round its sums, and bfloat16 rounds the result


@dataclass(frozen=True)
class Float8Rows:
    """Tokens, each scaled so that its largest feature is the largest float8.

    Attributes:
        values: (M, C) float8.
        scale: (M, 1) float32, the factor of each row.
    """

    values: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, hidden: torch.Tensor) -> Float8Rows:
        """Round (M, C) features."""
        return cls.by_kernel(hidden) if _has_kernel(hidden.device) else cls.by_operators(hidden)

    @classmethod
    def by_kernel(cls, hidden: torch.Tensor) -> Float8Rows:
        """Round by Triton's kernel, which reads the features once and stores nothing in between."""
        from artimuse_actor.engine.triton_kernels import launch, padded, round_rows

        rows, columns = hidden.shape
        values = torch.empty(hidden.shape, dtype=FLOAT8, device=hidden.device)  # (M, C)
        scale = torch.empty(rows, 1, dtype=torch.float32, device=hidden.device)
        block = padded(columns)
        numbers = {"INVERSE": _INVERSE, "TINY": _TINY, "BLOCK": block, "num_warps": max(4, min(16, block // 1024))}
        launch(round_rows, (rows,), values, scale, hidden, hidden.stride(0), columns, **numbers)
        return cls(values, scale)

    @classmethod
    def by_operators(cls, hidden: torch.Tensor) -> Float8Rows:
        """Round by torch's operators."""
        # One kernel reads them for the largest, and one scales and rounds them: none stores them in between.
        largest = torch.linalg.vector_norm(hidden, torch.inf, dim=1, keepdim=True, dtype=torch.float32)  # (M, 1)
        scale = (largest * _INVERSE).clamp_(min=_TINY)  # (M, 1)
        values = torch.empty(hidden.shape, dtype=FLOAT8, device=hidden.device)  # (M, C)
        torch.mul(hidden, scale.reciprocal(), out=values)
        return cls(values, scale)

    def times(
        self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
    ) -> torch.Tensor:
        """The product with a weight.

        Args:
            weight: (N, C) float8.
            scale: (N,) float32, of its rows.
            bias: (N,) in the dtype of the result, or None.
            dtype: of the result.

        Returns:
            (M, N).
        """
        if not weight.is_cuda:  # torch's own for the CPU knows row-wise scales from 2.13 on only
            return _in_float32(self, weight, scale, bias, dtype)
        # Fast accumulation keeps about 14 bits of a sum on Hopper, far more than e4m3 has.
        product: torch.Tensor = torch._scaled_mm(
            self.values, weight.T, self.scale, scale.unsqueeze(0), bias, out_dtype=dtype, use_fast_accum=True
        )
        return product


@cache
@torch.inference_mode()
def _has_kernel(device: torch.device) -> bool:
    """Whether Triton's kernel runs on a device, and rounds as torch's operators do."""
    if device.type != "cuda" or not has_triton():
        return False
    hidden = torch.randn(33, 300, generator=torch.Generator().manual_seed(0)).bfloat16().to(device)  # (M, C)
    try:
        plain, fused = (
            rows.values.float() * rows.scale for rows in (Float8Rows.by_operators(hidden), Float8Rows.by_kernel(hidden))
        )
    except Exception as error:  # whatever Triton raises, the operators work
        warn_once(device, f"Triton cannot round to 8 bits on {device}, so answers take longer: {one_line(str(error))}")
        return False
    agree = torch.allclose(plain, fused, rtol=_STEP, atol=1e-3)
    if not agree:
        warn_once(device, f"Triton rounds to 8 bits otherwise than torch on {device}, and is not used.")
    return agree


def _in_float32(
    rows: Float8Rows, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    product = (rows.values.float() @ weight.float().T) * rows.scale * scale  # (M, N)
    return (product if bias is None else product + bias).to(dtype)


@torch.inference_mode()
def refuse_without_units(device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a device that cannot multiply 8-bit floats, or multiplies them wrong.

    Args:
        device: a CPU, which computes them in float32, passes.
        dtype: of the products.

    Raises:
        UsageError: it has no units for them, or the dtype is none of theirs.
        RunError: torch or the card fails at a small product.
    """
    if device.type == "cpu":
        return
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "The GPU of an Apple machine"
    if device.type != "cuda" or torch.version.hip or torch.cuda.get_device_capability(device) < _ADA:
        raise UsageError(
            f"--quantize fp8-products: {name} has no units for products of 8-bit floats; NVIDIA's have them from Ada "
            "and Hopper on (L4, L40S, RTX 40, H100). Use --quantize int8, or leave it out."
        )
    if dtype != torch.bfloat16:
        raise UsageError("--quantize fp8-products gives results in bfloat16 alone. Use --dtype bfloat16.")
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(size, 256, generator=generator).to(dtype) for size in (33, 64))
    bias = torch.randn(64, generator=generator).to(dtype)  # (64,)
    found = []
    try:
        for place in (torch.device("cpu"), device):
            rows, stored = (Float8Rows.of(part.to(place)) for part in (hidden, weight))
            product = rows.times(stored.values, stored.scale.squeeze(1), bias.to(place), dtype)
            found.append(product.float().cpu())
    except RuntimeError as error:
        raise RunError(
            f"--quantize fp8-products: torch {torch.__version__} cannot multiply 8-bit floats on {name}: "
            f"{one_line(str(error))}. Use --quantize int8, or leave it out."
        ) from error
    expected, product = found
    off = float((product - expected).abs().max() / expected.abs().max())
    if not off <= _AGREEMENT:  # NaN is not
        raise RunError(
            f"--quantize fp8-products: {name} multiplies 8-bit floats wrong with torch {torch.__version__}: its "
            f"products are {off:.2g} of the largest off. Use --quantize int8, or leave it out."
        )
