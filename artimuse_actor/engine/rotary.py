"""Rotary position embeddings of queries and keys."""

from __future__ import annotations

from typing import Any

import torch


def cosines_sines(rotary_emb: Any, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(T, D) cosines and signed sines, for `rotate`, of (T,) positions, computed in float32.

    Args:
        rotary_emb: transformers' module, with float32 frequencies.
        positions: counted from 0.
        dtype: of the results.
    """
    probe = torch.empty(0, dtype=dtype, device=positions.device)
    cos, sin = rotary_emb(probe, positions.unsqueeze(0))  # (1, T, D) each
    lower, upper = sin[0].chunk(2, dim=-1)
    return cos[0], torch.cat([-lower, upper], dim=-1)


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Heads (…, T, D) turned to their positions."""
    # The minus of (-right, left) is in the sine, which saves one pass over the heads.
    left, right = heads.chunk(2, dim=-1)
    return torch.addcmul(heads * cos, torch.cat([right, left], dim=-1), sin)
