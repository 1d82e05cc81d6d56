"""Torch's counter of operations, where heads are grouped."""

from __future__ import annotations

import torch

from artimuse_actor.verify.counted_flops import flop_counter


def test_keys_of_fewer_heads_are_counted_for_every_head_of_the_queries() -> None:
    queries, keys = torch.empty(2, 28, 5, 128, device="meta"), torch.empty(2, 4, 9, 128, device="meta")
    with flop_counter() as counted:
        torch.ops.aten._scaled_dot_product_flash_attention(queries, keys, keys)
    assert counted.get_total_flops() == 2 * 2 * 28 * 5 * 9 * (128 + 128)
