"""Seconds of a pass on a card, predicted from what it does and a few stated rates.

Products and attention take the longer of computing and of moving their bytes; everything else moves bytes. A pass that
is not captured takes at least as long as Python needs to launch its kernels. Copies to the device add their time where
they have no stream of their own. No other overlap, no tails, no clock that falls under load: a measured time is longer,
and the share says how much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bench.engine.fake_cuda import Counts
from bench.engine.fake_kernels import PAGED_ATTENTION

_ATTENTION: Final = frozenset(
    {"_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention", PAGED_ATTENTION}
)
_FLOAT8: Final = "_scaled_mm"
_PRODUCTS: Final = frozenset({"mm", "addmm", "bmm", "baddbmm", "convolution", _FLOAT8})


@dataclass(frozen=True)
class Card:
    """Rates of a GPU.

    Attributes:
        name: as the maker gives it.
        product_flops: a second, in large bfloat16 products; of 8-bit floats twice as many.
        attention_flops: a second, in flash-attn 2.
        bytes_per_s: of its memory.
        launch_s: of one kernel from Python.
        link_bytes_per_s: of copies from pinned memory.
    """

    name: str
    product_flops: float
    attention_flops: float
    bytes_per_s: float
    launch_s: float = 6e-6
    link_bytes_per_s: float = 25e9


H100: Final = Card("H100 SXM", 660e12, 300e12, 3.0e12)
H200: Final = Card("H200", 790e12, 300e12, 4.3e12)
"""Products and memory of the H200 were measured elsewhere; those of the H100 are nine tenths of what its makers state
for memory and two thirds for products. The rate of attention is what flash-attn 2 reaches on either; that of copies is
PCIe 4's, of which PCIe 5 has twice as much."""


def moved_bytes(counts: Counts) -> tuple[int, int, int]:
    """Bytes of products, of attention, and of everything else."""
    products, attention = (sum(counts.bytes[kind] for kind in kinds) for kinds in (_PRODUCTS, _ATTENTION))
    return products, attention, counts.bytes.total() - products - attention


def predicted_s(counts: Counts, card: Card, *, captured: bool = False) -> float:
    """Seconds of a pass on a card.

    Args:
        counts: what it does.
        card: where.
        captured: as a CUDA graph, which the host launches as a whole.
    """
    products, attention, rest = moved_bytes(counts)
    attention_flops = sum(counts.flops[kind] for kind in _ATTENTION)
    product_flops = counts.flops.total() - attention_flops - counts.flops[_FLOAT8] / 2
    device_s = (
        max(product_flops / card.product_flops, products / card.bytes_per_s)
        + max(attention_flops / card.attention_flops, attention / card.bytes_per_s)
        + rest / card.bytes_per_s
        + counts.copied_bytes / card.link_bytes_per_s
    )
    return device_s if captured else max(device_s, counts.launches * card.launch_s)
