"""Counting of floating-point operations, with torch's own counter."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def flop_counter() -> FlopCounterMode:
    """Torch's counter, for attention with grouped heads, too: that of torch 2.11 refuses keys of fewer heads."""
    aten = torch.ops.aten
    kernels = (
        aten._scaled_dot_product_flash_attention,
        aten._scaled_dot_product_efficient_attention,
        aten._scaled_dot_product_cudnn_attention,
    )
    return FlopCounterMode(display=False, custom_mapping=dict.fromkeys(kernels, _attention))


def _attention(queries: torch.Size, keys: torch.Size, values: torch.Size, *_: Any, **__: Any) -> int:
    """Of (B, H, T, D) queries over (B, G, P, D) keys: two products; a causal half is not spared."""
    batch, heads, new, features = queries
    return int(2 * batch * heads * new * keys[-2] * (features + values[-1]))
