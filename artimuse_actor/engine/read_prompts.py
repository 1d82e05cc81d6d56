"""Prompts that are read once for all images, and their answers about each.

Shapes: B images, T tokens, Q prompts, C features of a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from artimuse_actor.engine.kv_cache import KVCache
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.protocol.prompts import SplitPrompts


@dataclass(frozen=True)
class ReadPrompts:
    """`SplitPrompts` on the device, read or embedded once for all images.

    Attributes:
        head: the cache of the tokens before the image.
        shared: (1, T, C) embeddings of the tokens after the image that all prompts have in common.
        tails: (1, T, C) embeddings of what follows, one entry a prompt.
    """

    head: KVCache
    shared: torch.Tensor
    tails: tuple[torch.Tensor, ...]


def read_prompts(model: VisionLanguageModel, prompts: SplitPrompts) -> ReadPrompts:
    """Read the head and embed the rest, so that no batch copies token ids to the device."""
    tails = tuple(model.embed(tail) for tail in prompts.tails)
    return ReadPrompts(model.extend(model.embed(prompts.head)), model.embed(prompts.shared), tails)


def read_answers(model: VisionLanguageModel, prompts: ReadPrompts, image: torch.Tensor) -> torch.Tensor:
    """The final hidden state at the end of each prompt; the image and the shared tokens are read once.

    Args:
        model: the network.
        prompts: questions about each image.
        image: (B, 256, C) image tokens.

    Returns:
        (B, Q, C), one for each of the Q tails.
    """
    seen = after_image(image, prompts.shared)
    if len(prompts.tails) == 1:
        return model.last_hidden(after_image(seen, prompts.tails[0]), prompts.head).unsqueeze(1)
    cache = model.extend(seen, prompts.head)
    tails = (tail.expand(len(image), -1, -1) for tail in prompts.tails)
    return torch.stack([model.last_hidden(tail, cache) for tail in tails], dim=1)


def after_image(image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """(B, T, C) image tokens and the same (1, U, C) text tokens after each: (B, T + U, C)."""
    return torch.cat([image, text.expand(len(image), -1, -1)], dim=1)
