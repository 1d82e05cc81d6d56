"""A run's precision: the memory of its model, and what weights of fewer bits cost in time; both are counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from artimuse_actor.checkpoint.network_memory import prefill_bytes, weight_bytes

if TYPE_CHECKING:
    from artimuse_actor.artimuse import ArtiMuse


@dataclass(frozen=True)
class CountedTimes:
    """How many times as long as with all bits.

    Attributes:
        scores: an image takes.
        texts: an image with eight texts takes.
    """

    scores: float
    texts: float


COUNTED_TIMES: Final[Mapping[str, CountedTimes]] = {
    "int8": CountedTimes(1.07, 1.32),
    "fp8": CountedTimes(1.07, 1.32),
    "fp8-products": CountedTimes(0.68, 0.71),
    "nf4": CountedTimes(1.02, 1.90),
}
"""Of the 8B network on an H200, by `bench/engine/operations.py`; `docs/gpu.md` has the table."""


@dataclass(frozen=True)
class ModelMemory:
    """What a model takes on its device.

    Attributes:
        name: of its checkpoint.
        precision: such as `bfloat16/nf4`.
        weight_bytes: of its weights.
        image_bytes: of the activations of each image of a batch.
    """

    name: str
    precision: str
    weight_bytes: int
    image_bytes: int

    @classmethod
    def of(cls, model: ArtiMuse) -> ModelMemory:
        """Count them from the shapes of a model's checkpoint."""
        checkpoint = model.checkpoint
        each = prefill_bytes(checkpoint.config, model.prompt_tokens, model.model.dtype.itemsize)
        return cls(checkpoint.name, model.precision, weight_bytes(checkpoint.shapes, model.precision), each)
