"""The fast side of the benchmarks: the product's passes over pixels, as `ArtiMuse` runs them, without a checkpoint."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from artimuse_actor.engine.attention import Pages
from artimuse_actor.engine.device import CPU_BATCH_SIZE, MAX_AUTO_BATCH_SIZE
from artimuse_actor.engine.late_read import LateRead
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.engine.network import Network
from artimuse_actor.engine.read_prompts import read_answers, read_prompts
from artimuse_actor.engine.schedule import AnsweredImage
from artimuse_actor.engine.scoring import expected_level, level_probabilities
from artimuse_actor.engine.text_budget import TextPrompts, text_budget
from artimuse_actor.engine.text_engine import TextEngine
from artimuse_actor.protocol.prompts import SplitPrompts
from bench.engine.operations import PromptLengths
from bench.engine.random_network import RandomModel

if TYPE_CHECKING:  # a bare GPU machine reads no files
    from artimuse_actor.images.options import Pixels


class Engine:
    """Batched scoring with what all images share computed once."""

    def __init__(self, network: Network, prompts: SplitPrompts, level_ids: torch.Tensor) -> None:
        """Read the head of the prompts.

        Args:
            network: in eval mode, on its device.
            prompts: with exactly one tail.
            level_ids: (101,) int64, ids of the score tokens.
        """
        self._model = VisionLanguageModel(network)
        self._level_ids = level_ids
        with torch.inference_mode():
            self._prompts = read_prompts(self._model, prompts)

    @torch.inference_mode()
    def score(self, pixels: torch.Tensor, batch_size: int) -> list[float]:
        """Scores, in points.

        Args:
            pixels: (N, 448, 448, 3) uint8, RGB, on the CPU.
            batch_size: images of one forward pass.
        """
        scores: list[float] = []
        late: deque[LateRead] = deque()
        for batch in pixels.split(batch_size):
            hidden = read_answers(self._model, self._prompts, self._model.encode_images(batch))  # (B, 1, C)
            late.append(LateRead(level_probabilities(self._model.head_logits(hidden, self._level_ids))))
            if len(late) == 2:
                scores += expected_level(late.popleft().read())[:, 0].tolist()
        return scores + expected_level(late.popleft().read())[:, 0].tolist()


def text_engine(
    model: RandomModel, stop_id: int, max_new_tokens: int, sequences: int, pages: Pages | None = None
) -> TextEngine:
    """The product's text engine, prefilling as many images at a time as the product does.

    Args:
        model: network and prompts.
        stop_id: the token that ends a text.
        max_new_tokens: of a text.
        sequences: how many are in flight.
        pages: the attention of decode steps, if not the device's own.
    """
    language = VisionLanguageModel(model.network, pages)
    lengths = PromptLengths.of(model.text_prompts)
    budget = text_budget(
        model.config,
        TextPrompts(lengths.text_shared, max(lengths.texts) - lengths.text_shared, len(lengths.texts), max_new_tokens),
        device=language.device,
        dtype=language.dtype,
        kind=language.pages,
        batch_size=CPU_BATCH_SIZE if language.device.type == "cpu" else MAX_AUTO_BATCH_SIZE,
        sequences=sequences,
    )
    return TextEngine(
        language,
        model.text_prompts,
        level_ids=model.level_ids,
        score_questions=1,
        stop_id=stop_id,
        max_new_tokens=max_new_tokens,
        budget=budget,
    )


def answer_all(engine: TextEngine, pixels: torch.Tensor | Sequence[Pixels]) -> list[AnsweredImage]:
    """The answers about (448, 448, 3) uint8 images on the CPU, in their order."""
    for key, image in enumerate(pixels.numpy() if isinstance(pixels, torch.Tensor) else pixels):
        engine.add(key, image)
    answered: list[AnsweredImage] = []
    while engine.busy:
        answered += engine.step()
    return sorted(answered, key=lambda image: int(image.key))


def texts_of(answered: Iterable[AnsweredImage]) -> list[list[tuple[int, ...]]]:
    """Token ids of each text of each image."""
    return [[text.token_ids for text in image.texts] for image in answered]


def scores_of(answered: Iterable[AnsweredImage]) -> list[float]:
    """Points of each image that was scored."""
    return [float(expected_level(image.probabilities)[0]) for image in answered if image.probabilities is not None]
