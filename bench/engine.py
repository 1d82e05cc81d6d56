"""The fast side of the benchmarks: the product's passes over pixels, as `ArtiMuse` runs them, without a checkpoint."""

from __future__ import annotations

import torch
from transformers import InternVLForConditionalGeneration

from artimuse_actor.model import VisionLanguageModel, read_answers
from artimuse_actor.prompts import SplitPrompts
from artimuse_actor.scoring import expected_level, level_probabilities


class Engine:
    """Batched scoring with what all images share computed once."""

    def __init__(
        self, network: InternVLForConditionalGeneration, prompts: SplitPrompts, level_ids: torch.Tensor
    ) -> None:
        """Read the head of the prompts.

        Args:
            network: in eval mode, on its device.
            prompts: with exactly one tail.
            level_ids: (101,) int64, ids of the score tokens.
        """
        self._model = VisionLanguageModel(network)
        self._prompts = prompts
        self._level_ids = level_ids
        with torch.inference_mode():
            self._head_cache = self._model.extend(self._model.embed(prompts.head))

    @torch.inference_mode()
    def score(self, pixels: torch.Tensor, batch_size: int) -> list[float]:
        """Scores, in points.

        Args:
            pixels: (N, 448, 448, 3) uint8, RGB, on the CPU.
            batch_size: images of one forward pass.
        """
        scores: list[float] = []
        for batch in pixels.split(batch_size):
            image = self._model.encode_images(batch)
            hidden = read_answers(self._model, self._head_cache, self._prompts, image)  # (B, 1, C)
            probabilities = level_probabilities(self._model.head_logits(hidden, self._level_ids)).cpu()
            scores += expected_level(probabilities)[:, 0].tolist()
        return scores
