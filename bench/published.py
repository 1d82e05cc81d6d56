"""The slow side of the benchmarks: scoring in the manner of the published script.

One image at a time, the whole prompt with its 256 image placeholders, transformers' own forward with the logits of the
whole vocabulary at every position, and the softmax over the 101 levels at the last one. Our own code, and kinder to the
loop than the script is: the prompt is tokenised beforehand, and images arrive as pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import InternVLForConditionalGeneration

from artimuse_actor.model import IMAGENET_MEAN, IMAGENET_STD
from artimuse_actor.prompts import SplitPrompts
from artimuse_actor.protocols import IMAGE_TOKENS


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
        (tail,) = prompts.tails
        placeholders = [network.config.image_token_id] * IMAGE_TOKENS
        self._network = network
        self._level_ids = level_ids
        self._device = level_ids.device
        self._input_ids = torch.tensor([[*prompts.head, *placeholders, *prompts.shared, *tail]], device=self._device)
        self._mean = torch.tensor(IMAGENET_MEAN, device=self._device).reshape(1, 3, 1, 1)
        self._std = torch.tensor(IMAGENET_STD, device=self._device).reshape(1, 3, 1, 1)

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
        values = image.to(self._device).permute(2, 0, 1).unsqueeze(0).float() / 255
        output = self._network(
            input_ids=self._input_ids,
            attention_mask=torch.ones_like(self._input_ids),
            pixel_values=((values - self._mean) / self._std).to(self._network.dtype),
            logits_to_keep=0,  # all positions
        )
        probabilities = output.logits[0, -1, self._level_ids].float().softmax(dim=-1)  # (101,)
        levels = torch.arange(len(probabilities), dtype=torch.float32, device=self._device)
        return float((probabilities * levels).sum())


def differences(scores: Sequence[float], others: Sequence[float]) -> list[float]:
    """Absolute differences, in points."""
    return [abs(one - other) for one, other in zip(scores, others, strict=True)]
