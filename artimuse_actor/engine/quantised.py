"""Linear layers with weights of 8 or 4 bits: an 8B network on a card of 12 or 8 GB.

Only the layers of the language model are stored so, 6.5 of the 8B's 7.6 billion weights; what is left is 2.7 GB in
bfloat16. Activations keep their dtype, and a weight is expanded for each product: memory is saved, not time. Written
here, since it takes no kernel: without a compiler torchao 0.18 expands its weights of 8 bits in the same way, and
bitsandbytes 0.50 was wrong in 4 bits for the demo's checkpoint on a CPU (SRCC -0.8), and asked for kernels from a hub.

int8 and fp8 have a scale for each row of a weight. nf4 has the 16 levels of the NormalFloat of QLoRA (Dettmers et al.,
2023, appendix E), and a scale for each 64 weights. fp8-products stores what fp8 stores and expands nothing: activations
are rounded to 8 bits too, see `fp8_products`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from artimuse_actor.engine.fp8_products import FLOAT8, LARGEST, Float8Rows, refuse_without_units
from artimuse_actor.errors import UsageError

_BLOCK: Final = 64
_AT_ONCE: Final = 1024  # rows of a weight, or as many weights in blocks: what is expanded while it is stored
_LEVELS: Final = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_LARGEST: Final = {"int8": 127.0, "fp8": LARGEST, "fp8-products": LARGEST}
_UNITS: Final = {"int8": 2.0**-7, "fp8": 2.0**-9, "fp8-products": 2.0**-9}
_STORED: Final = {"int8": torch.int8, "fp8": FLOAT8, "fp8-products": FLOAT8}


class QuantisedLinear(nn.Module):
    """A linear layer that stores its weight in few bits.

    Attributes:
        kind: `int8`, `fp8`, `fp8-products` or `nf4`.
        bias: (N,), or None.
        stored: (N, C) int8 or float8; of nf4 (N·C / 2,) uint8, two codes in each.
        scale: (N,) float32; of nf4 (N·C / 64,).
        pairs: of nf4 (256, 2) float32, the two levels that a byte stands for.
    """

    stored: torch.Tensor
    scale: torch.Tensor
    pairs: torch.Tensor

    def __init__(self, like: nn.Linear, kind: str) -> None:
        """Make room for the weight of a layer, on its device; `store` fills it."""
        super().__init__()
        self.kind, self._shape = kind, like.weight.shape
        self.bias = like.bias
        place, count = like.weight.device, like.weight.numel()
        if kind == "nf4":
            self.register_buffer("stored", torch.empty(count // 2, dtype=torch.uint8, device=place))
            self.register_buffer("scale", torch.empty(count // _BLOCK, device=place))
            # On the device: a captured step may copy nothing there.
            self.register_buffer("pairs", torch.empty(256, 2, device=place), persistent=False)
        else:
            self.register_buffer("stored", torch.empty(self._shape, dtype=_STORED[kind], device=place))
            self.register_buffer("scale", torch.empty(len(like.weight), device=place))

    def store(self, weight: torch.Tensor) -> None:
        """Quantise a (N, C) weight, on any device, some of it at a time."""
        if self.kind != "nf4":
            for rows, stored, scale in zip(
                *(part.split(_AT_ONCE) for part in (weight, self.stored, self.scale)), strict=True
            ):
                values = rows.to(stored.device, torch.float32)  # (K, C)
                scale.copy_(values.abs().amax(dim=1) / _LARGEST[self.kind])
                scaled = values / _nonzero(scale).unsqueeze(1)  # (K, C)
                stored.copy_(scaled.round() if self.kind == "int8" else scaled)
            return
        levels = torch.tensor(_LEVELS)  # (16,)
        self.pairs.copy_(torch.cartesian_prod(levels, levels))
        between = ((levels[1:] + levels[:-1]) / 2).to(self.scale.device)  # (15,)
        parts = weight.reshape(-1, _BLOCK), self.stored.view(-1, _BLOCK // 2), self.scale
        for blocks, stored, scale in zip(*(part.split(_AT_ONCE * _BLOCK) for part in parts), strict=True):
            values = blocks.to(stored.device, torch.float32)  # (K, 64)
            scale.copy_(values.abs().amax(dim=1))
            codes = torch.bucketize(values / _nonzero(scale).unsqueeze(1), between, out_int32=True)  # (K, 64)
            stored.copy_(16 * codes[:, 0::2] + codes[:, 1::2])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, C) → (…, N)."""
        if self.kind == "fp8-products":
            product = self.times(Float8Rows.of(hidden.flatten(end_dim=-2)), hidden.dtype)
            return product.view(*hidden.shape[:-1], -1)
        if self.kind == "nf4" or hidden.dtype == torch.float16:  # products before scaling may pass its largest number
            return functional.linear(hidden, self.expanded(hidden.dtype), self.bias)
        # Scaled afterwards: whole numbers to 127 are exact in every dtype.
        product = functional.linear(hidden, self.stored.to(hidden.dtype)) * self.scale.to(hidden.dtype)
        return product if self.bias is None else product + self.bias

    def expanded(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight with all bits: (N, C)."""
        if self.kind == "nf4":
            levels = functional.embedding(self.stored.int(), self.pairs.to(dtype)).view(-1, _BLOCK)  # (N·C / 64, 64)
            return levels.mul_(self.scale.to(dtype).unsqueeze(1)).view(self._shape)
        # Exact, and scales of small weights keep their bits in float16.
        unit = _UNITS[self.kind]
        return self.stored.to(dtype).mul_(unit).mul_((self.scale / unit).to(dtype).unsqueeze(1))

    def times(self, rows: Float8Rows, dtype: torch.dtype) -> torch.Tensor:
        """(M, C) rounded tokens → (M, N) in this dtype; of kind `fp8-products`."""
        return rows.times(self.stored, self.scale, self.bias, dtype)


def quantise_layers(modules: Iterable[nn.Module], kind: str) -> None:
    """Replace all linear layers in these modules; their weights are lost."""
    for module in modules:
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, QuantisedLinear(child, kind))
            else:
                quantise_layers([child], kind)


def expand_layers(modules: Iterable[nn.Module], dtype: torch.dtype) -> None:
    """Replace all quantised layers in these modules by linear ones over their weights, such as they are stored."""
    for module in modules:
        for name, child in list(module.named_children()):
            if isinstance(child, QuantisedLinear):
                weight = child.expanded(dtype)
                linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
                linear.weight, linear.bias = nn.Parameter(weight, requires_grad=False), child.bias
                setattr(module, name, linear)
            else:
                expand_layers([child], dtype)


def kind_of(network: nn.Module) -> str | None:
    """The kind of a network's quantised layers; None if it has none."""
    return next((module.kind for module in network.modules() if isinstance(module, QuantisedLinear)), None)


def refuse_quantisation(kind: str | None, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a kind of weights that a device cannot work with.

    Raises:
        UsageError: it lacks the dtype, or the units.
        RunError: see `refuse_without_units`.
    """
    if kind == "fp8-products":
        refuse_without_units(device, dtype)
    elif kind == "fp8" and device.type == "mps":
        raise UsageError("--quantize fp8: torch has no 8-bit floats on Apple's GPUs. Use --quantize int8.")


def _nonzero(scale: torch.Tensor) -> torch.Tensor:
    return scale.clamp(min=torch.finfo(torch.float32).tiny)
