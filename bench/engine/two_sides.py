"""The fast side of the benchmarks: the product's passes over pixels, as `ArtiMuse` runs them, without a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from artimuse_actor.engine.attention import Pages
from artimuse_actor.engine.device import CPU_BATCH_SIZE, MAX_AUTO_BATCH_SIZE
from artimuse_actor.engine.layer_kernels import Kernels
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.engine.network import Network
from artimuse_actor.engine.schedule import AnsweredImage
from artimuse_actor.engine.score_engine import ScoreEngine
from artimuse_actor.engine.scoring import expected_level
from artimuse_actor.engine.sized_text_engine import sized_text_engine
from artimuse_actor.engine.text_engine import TextEngine
from artimuse_actor.protocol.prompts import SplitPrompts
from bench.engine.random_network import RandomModel

if TYPE_CHECKING:  # a bare GPU machine reads no files
    from artimuse_actor.images.options import Pixels


class Engine:
    """Batched scoring with what all images share computed once."""

    def __init__(
        self, network: Network, prompts: SplitPrompts, level_ids: torch.Tensor, kernels: Kernels | None = None
    ) -> None:
        """Read the head of the prompts.

        Args:
            network: in eval mode, on its device.
            prompts: with exactly one tail.
            level_ids: (101,) int64, ids of the score tokens.
            kernels: of a layer, if not the device's own.
        """
        model = VisionLanguageModel(network, kernels=kernels)
        self._engine = ScoreEngine(model, prompts, level_ids=level_ids, batch_size=1)

    def score(self, pixels: torch.Tensor, batch_size: int) -> list[float]:
        """Scores, in points.

        Args:
            pixels: (N, 448, 448, 3) uint8, RGB, on the CPU.
            batch_size: images of one forward pass.

        Raises:
            torch.OutOfMemoryError: so many do not fit.
        """
        self._engine.batch_size = batch_size
        scores: list[float] = self._engine.score(pixels.numpy()).score[:, 0].tolist()
        if self._engine.batch_size < batch_size:
            raise torch.OutOfMemoryError(f"a batch of {batch_size} became one of {self._engine.batch_size}")
        return scores


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
    return sized_text_engine(
        language,
        model.config,
        model.text_prompts,
        level_ids=model.level_ids,
        score_questions=1,
        stop_id=stop_id,
        max_new_tokens=max_new_tokens,
        batch_size=CPU_BATCH_SIZE if language.device.type == "cpu" else MAX_AUTO_BATCH_SIZE,
        sequences=sequences,
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
