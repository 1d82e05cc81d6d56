"""Four image patches → one image token."""

from __future__ import annotations

import torch


def pixel_shuffle(patches: torch.Tensor) -> torch.Tensor:
    """Merge each 2×2 block of patches into one token of four times the features.

    Args:
        patches: (B, S², V) in row order.

    Returns:
        (B, (S/2)², 4V); the features of a block come in the order upper left, upper right, lower left, lower right.

    Source: InternVL, `pixel_shuffle` with ps_version "v2" and scale 0.5.
    """
    batch, count, features = patches.shape
    side = round(count**0.5)
    blocks = patches.reshape(batch, side // 2, 2, side // 2, 2, features)  # (B, S/2, 2, S/2, 2, V)
    return blocks.transpose(2, 3).reshape(batch, count // 4, 4 * features)
