"""Prompts that are read once for all images, and their answers about each.

Shapes: B images, T tokens, Q prompts, C features of a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from artimuse_actor.engine.kv_cache import KVCache
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.engine.scoring import level_probabilities
from artimuse_actor.protocol.prompts import SplitPrompts, split_tails
from artimuse_actor.protocol.protocols import IMAGE_TOKENS, Rounding


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
    seen = after_image(image, prompts.shared)  # (B, T, C)
    if len(prompts.tails) == 1:
        return model.last_hidden(after_image(seen, prompts.tails[0]), prompts.head).unsqueeze(1)
    cache = model.extend(seen, prompts.head)
    tails = (tail.expand(len(image), -1, -1) for tail in prompts.tails)  # (B, T, C) each
    return torch.stack([model.last_hidden(tail, cache) for tail in tails], dim=1)


def answer_probabilities(
    model: VisionLanguageModel, hidden: torch.Tensor, level_ids: torch.Tensor, rounding: Rounding
) -> torch.Tensor:
    """(…, C) final hidden states → (…, 101), the probabilities of the levels: float32, unless scores are rounded."""
    logits = model.head_logits(hidden, level_ids, rounded=rounding != "none")
    return level_probabilities(logits, rounded=rounding == "scores")


def after_image(image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """(B, T, C) image tokens and the same (1, U, C) text tokens after each: (B, T + U, C)."""
    return torch.cat([image, text.expand(len(image), -1, -1)], dim=1)


class PrefixReader:
    """Reads what all text questions about an image have in common, and scores it on the way.

    Attributes:
        tokens: P, the length of that prefix, the image included.
        text_tails: the tokens that each text question has for itself.
        scores: whether there are score questions.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        prompts: SplitPrompts,
        score_questions: int,
        level_ids: torch.Tensor,
        rounding: Rounding = "none",
    ) -> None:
        """Read the head of the prompts.

        Args:
            model: the network.
            prompts: of all questions: first those answered by a score, then those answered by a text.
            score_questions: number of prompts that are score questions.
            level_ids: (101,) int64 on the device, ids of the score tokens.
            rounding: of the scores.
        """
        self._model, self._level_ids, self._rounding = model, level_ids, rounding
        text_shared, self.text_tails = split_tails(prompts.tails[score_questions:])
        self.tokens = len(prompts.head) + IMAGE_TOKENS + len(prompts.shared) + len(text_shared)
        self.scores = score_questions > 0
        with torch.inference_mode():
            scores = SplitPrompts(prompts.head, prompts.shared, prompts.tails[:score_questions])
            self._prompts = read_prompts(model, scores)
            self._text_shared = model.embed(text_shared)  # (1, T, C)

    def read(self, pixels: torch.Tensor, *, scored: bool) -> tuple[KVCache, torch.Tensor | None]:
        """Prefill B images.

        Args:
            pixels: (B, 448, 448, 3) uint8, RGB.
            scored: also ask the score questions.

        Returns:
            The cache of P tokens, and (B, Q, 101) on the CPU, see `answer_probabilities`, if asked.
        """
        model, count = self._model, len(pixels)
        prefix = model.extend(after_image(model.encode_images(pixels), self._prompts.shared), self._prompts.head)
        probabilities = None
        if scored:
            tails = (tail.expand(count, -1, -1) for tail in self._prompts.tails)  # (B, T, C) each
            hidden = torch.stack([model.last_hidden(tail, prefix) for tail in tails], dim=1)  # (B, Q, C)
            probabilities = answer_probabilities(model, hidden, self._level_ids, self._rounding).cpu()
        if self._text_shared.shape[1]:
            prefix = model.extend(self._text_shared.expand(count, -1, -1), prefix)
        return prefix, probabilities
