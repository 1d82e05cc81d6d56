"""The slow side of the benchmarks: scores and texts in the manner of the published script.

One image at a time, the whole prompt with its 256 image placeholders, transformers' own forward with the logits of the
whole vocabulary at every position. A score is the softmax over the 101 levels at the last one. A text is generated
greedily, one token at a time with a KV cache, and each question encodes and reads its image anew. Our own code, and
kinder to the loop than the script is: prompts are tokenised beforehand, images arrive as pixels, and nothing stands
between two tokens but the choice of the likelier.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache, InternVLForConditionalGeneration

from artimuse_actor.engine.pixel_values import IMAGENET_MEAN, IMAGENET_STD
from artimuse_actor.protocol.prompts import SplitPrompts
from artimuse_actor.protocol.protocols import IMAGE_TOKENS


class PublishedLoop:
    """Batch 1, nothing shared, nothing left out."""

    def __init__(
        self, network: InternVLForConditionalGeneration, prompts: SplitPrompts, level_ids: torch.Tensor
    ) -> None:
        """Put the one prompt together.

        Args:
            network: in eval mode, on its device.
            prompts: with exactly one tail.
            level_ids: (101,) int64, ids of the score tokens.
        """
        self._network = network
        self._level_ids = level_ids
        (self._input_ids,) = whole_prompts(network, prompts)

    @torch.inference_mode()
    def score(self, pixels: torch.Tensor) -> list[float]:
        """Scores, in points.

        Args:
            pixels: (N, 448, 448, 3) uint8, RGB, on the CPU.
        """
        return [self._score_one(image) for image in pixels]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, the image's included."""
        return int(self._input_ids.shape[1])

    def _score_one(self, image: torch.Tensor) -> float:
        output = self._network(
            input_ids=self._input_ids,
            attention_mask=torch.ones_like(self._input_ids),
            pixel_values=pixel_values(self._network, image),
            logits_to_keep=0,  # all positions
        )
        probabilities = output.logits[0, -1, self._level_ids].float().softmax(dim=-1)  # (101,)
        levels = torch.arange(len(probabilities), dtype=torch.float32, device=probabilities.device)
        return float((probabilities * levels).sum())


class PublishedTexts:
    """Batch 1, question by question, token by token."""

    def __init__(
        self, network: InternVLForConditionalGeneration, prompts: SplitPrompts, *, stop_id: int, max_new_tokens: int
    ) -> None:
        """Put the prompts together.

        Args:
            network: in eval mode, on its device.
            prompts: of text questions alone.
            stop_id: the token that ends a text.
            max_new_tokens: of a text.
        """
        self._network = network
        self._prompts = whole_prompts(network, prompts)
        self.stop_id, self._max_new_tokens = stop_id, max_new_tokens

    def answer(self, image: torch.Tensor, questions: int | None = None) -> list[tuple[int, ...]]:
        """Token ids of the first so many texts, or of all, about one (448, 448, 3) uint8 image."""
        return [self.answer_one(image, question) for question in range(questions or len(self._prompts))]

    @torch.inference_mode()
    def answer_one(self, image: torch.Tensor, question: int) -> tuple[int, ...]:
        """Token ids of one text, without the one that ended it."""
        cache = DynamicCache(config=self._network.config.text_config)
        logits = self._prefill(image, self._prompts[question], cache)  # (1, T, V)
        text: list[int] = []
        while True:
            token = logits[:, -1].argmax(dim=-1, keepdim=True)  # (1, 1)
            if (found := int(token)) == self.stop_id:
                return tuple(text)
            text.append(found)
            if len(text) == self._max_new_tokens:
                return tuple(text)
            logits = self._read(token, cache)

    @torch.inference_mode()
    def preference(self, image: torch.Tensor, question: int, text: Sequence[int], one: int, other: int) -> float:
        """By how much the logit of one token exceeds another's as the next of a text."""
        cache = DynamicCache(config=self._network.config.text_config)
        logits = self._prefill(image, self._prompts[question], cache)
        if text:  # not through the prefill: a generated token may be the image's placeholder
            logits = self._read(torch.tensor([list(text)], device=logits.device), cache)
        last = logits[0, -1].float()  # (V,)
        return float(last[one] - last[other])

    def _prefill(self, image: torch.Tensor, input_ids: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        output = self._network(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            pixel_values=pixel_values(self._network, image),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=0,  # all positions
        )
        logits: torch.Tensor = output.logits
        return logits

    def _read(self, token_ids: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """The logits after each of (1, T) further tokens: (1, T, V)."""
        output = self._network.model.language_model(input_ids=token_ids, past_key_values=cache, use_cache=True)
        logits: torch.Tensor = self._network.lm_head(output.last_hidden_state)
        return logits


def whole_prompts(network: InternVLForConditionalGeneration, prompts: SplitPrompts) -> list[torch.Tensor]:
    """(1, T) int64 on the network's device for each prompt, the image as 256 placeholders."""
    before = [*prompts.head, *[network.config.image_token_id] * IMAGE_TOKENS, *prompts.shared]
    return [torch.tensor([[*before, *tail]], device=network.device) for tail in prompts.tails]


def pixel_values(network: InternVLForConditionalGeneration, image: torch.Tensor) -> torch.Tensor:
    """(448, 448, 3) uint8 on the CPU → (1, 3, 448, 448), scaled and normalised, as the network wants it."""
    values = image.to(network.device).permute(2, 0, 1).unsqueeze(0).float() / 255
    shape = (1, 3, 1, 1)
    mean = torch.tensor(IMAGENET_MEAN, device=network.device).reshape(shape)
    std = torch.tensor(IMAGENET_STD, device=network.device).reshape(shape)
    return ((values - mean) / std).to(network.dtype)


def differences(scores: Sequence[float], others: Sequence[float]) -> list[float]:
    """Absolute differences, in points."""
    return [abs(one - other) for one, other in zip(scores, others, strict=True)]
