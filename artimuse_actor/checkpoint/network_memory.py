"""Memory of a network, counted from its shapes: its weights in a precision, and what one image takes beside them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from artimuse_actor.checkpoint.network_config import NetworkConfig, Shape

_BITS: Final[Mapping[str, float]] = {
    "float32": 32, "bfloat16": 16, "float16": 16, "int8": 8, "fp8": 8, "fp8-products": 8, "nf4": 4.5
}  # fmt: skip
_QUANTISED: Final = re.compile(r"^language_model\.model\.layers\..*_proj\.weight$")


def weight_bytes(shapes: Mapping[str, Shape], precision: str) -> int:
    """Bytes of all weights; scales of quantised ones are counted where they are not few.

    Args:
        shapes: published tensor name → shape.
        precision: such as `bfloat16` or `bfloat16/nf4`.
    """
    dtype, _, quantize = precision.partition("/")
    whole, stored = _BITS[dtype], _BITS[quantize or dtype]
    bits = sum(math.prod(shape) * (stored if _QUANTISED.search(name) else whole) for name, shape in shapes.items())
    return int(bits / 8)


def prefill_bytes(config: NetworkConfig, tokens: int, itemsize: int) -> int:
    """Bytes of the activations of one image's prefill, its keys and values twice, since texts write them into pages.

    Args:
        config: the network's sizes.
        tokens: those of the prefill.
        itemsize: bytes of a number of its dtype.
    """
    language, vision = config.language, config.vision
    kv_features = 2 * language.num_layers * language.num_kv_heads * language.head_dim
    per_token = 8 * language.hidden_size + 3 * language.intermediate_size + 2 * kv_features
    per_patch = 8 * vision.hidden_size + 2 * vision.intermediate_size
    return itemsize * (tokens * per_token + (vision.num_patches + 1) * per_patch)


def expanded_bytes(config: NetworkConfig, precision: str) -> int:
    """Bytes of the largest weight of fewer bits while a product expands it; of `nf4` its codes are widened too."""
    dtype, _, quantize = precision.partition("/")
    if quantize in ("", "fp8-products"):
        return 0
    widened = 16 if quantize == "nf4" else 0  # a code for two weights, as int32
    return int(config.language.hidden_size * config.language.intermediate_size * (_BITS[dtype] + widened) // 8)
