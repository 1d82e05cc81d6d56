"""Scores of many images, a batch at a time; a batch becomes smaller when the device's memory runs out."""

from __future__ import annotations

import numpy as np
import torch

from artimuse_actor.engine.device_memory import memory_errors, release_memory
from artimuse_actor.engine.late_read import LateRead
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.engine.read_prompts import answer_probabilities, read_answers, read_prompts
from artimuse_actor.engine.scoring import LEVEL_COUNT, Scores, scores_of
from artimuse_actor.errors import RunError
from artimuse_actor.images.options import Pixels
from artimuse_actor.protocol.prompts import SplitPrompts
from artimuse_actor.protocol.protocols import Rounding


class ScoreEngine:
    """Asks the score questions about images.

    Attributes:
        batch_size: images of one pass; reduced when the device's memory runs out.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        prompts: SplitPrompts,
        *,
        level_ids: torch.Tensor,
        batch_size: int,
        rounding: Rounding = "none",
    ) -> None:
        """Read what all prompts have in common.

        Args:
            model: the network.
            prompts: of the score questions.
            level_ids: (101,) int64 on the device, ids of the score tokens.
            batch_size: at first.
            rounding: of the scores.
        """
        self._model, self._level_ids, self._rounding = model, level_ids, rounding
        self._questions = len(prompts.tails)
        self.batch_size = batch_size
        with torch.inference_mode():
            self._prompts = read_prompts(model, prompts)

    def score(self, pixels: Pixels) -> Scores:
        """Score images.

        A batch is read when the next is on its way to the device. When the device's memory runs out, the batch is
        halved permanently, and scoring continues.

        Args:
            pixels: (N, 448, 448, 3) uint8, RGB.

        Raises:
            RunError: not even one image fits into the device's memory.
        """
        parts: list[torch.Tensor] = []
        last: LateRead | None = None
        done = 0
        while done < len(pixels):
            batch = torch.from_numpy(np.array(pixels[done : done + self.batch_size]))  # (B, 448, 448, 3)
            try:
                with memory_errors():
                    found = LateRead(self._probabilities(batch))
                    if last:
                        parts.append(last.read())
                last = found
                done += len(batch)
                continue
            except torch.OutOfMemoryError as error:
                if self.batch_size == 1:
                    raise RunError(
                        f"One image does not fit into the free memory of {self._model.device}. "
                        "Stop what else runs there, or choose another --device."
                    ) from error
            # Outside the handler: the exception's frames hold the tensors that filled the memory.
            self.batch_size = max(1, min(self.batch_size, len(batch)) // 2)
            release_memory(self._model.device)
        if last:
            parts.append(last.read())
        probabilities = torch.cat(parts) if parts else torch.empty(0, self._questions, LEVEL_COUNT)  # (N, Q, 101)
        return scores_of(probabilities)

    @torch.inference_mode()
    def _probabilities(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 448, 448, 3) uint8 → (B, Q, 101) on the device, see `answer_probabilities`."""
        image = self._model.encode_images(pixels)  # (B, 256, C)
        hidden = read_answers(self._model, self._prompts, image)  # (B, Q, C)
        return answer_probabilities(self._model, hidden, self._level_ids, self._rounding)
