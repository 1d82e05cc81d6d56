"""UniPercept as a reward model: paths in, three scores each out, as the published package `unipercept-reward` has it.

    scorer = UniPerceptReward(device="cuda")
    scorer.reward(["a.png", "gone.png"])    # [{"iaa": 71.2, "iqa": 64.9, "ista": 55.0}, None]

An image is encoded once for its three questions, and many are scored together; the package encodes each image three
times, one after the other. Scores are those of a job, by default in float32 from the last hidden state on.

Source: unipercept-reward 1.0.3, `inferencer.py`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Final

import torch

from artimuse_actor.artimuse import ArtiMuse
from artimuse_actor.engine.device import dtype_name
from artimuse_actor.errors import ImageError, UsageError
from artimuse_actor.images.inputs import input_pixels
from artimuse_actor.images.options import DecodeOptions, Pixels
from artimuse_actor.loaded_model import BatchSize
from artimuse_actor.protocol.protocols import UNIPERCEPT

DEFAULT_CHECKPOINT: Final = "UniPercept"
_log = logging.getLogger(__name__)


class UniPerceptReward:
    """A loaded UniPercept that gives each picture its three scores.

    Attributes:
        model: the checkpoint.
        options: how files are decoded.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str] | None = None,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        *,
        batch_size: BatchSize = "auto",
        published_arithmetic: bool = False,
        options: DecodeOptions = DecodeOptions(),
    ) -> None:
        """Load the checkpoint.

        Args:
            model_path: as of `ArtiMuse.load`; None for the published UniPercept.
            device: as of `ArtiMuse.load`.
            dtype: as of `ArtiMuse.load`, or of torch.
            batch_size: as of `ArtiMuse.load`.
            published_arithmetic: as of `ArtiMuse.load`; what the published package does.
            options: how files are decoded; the published package reads truncated files, see `DecodeOptions`.

        Raises:
            CheckpointError: the checkpoint cannot be fetched, read or verified.
            UsageError: an argument is not valid here.
        """
        self.options = options
        self.model = ArtiMuse.load(
            DEFAULT_CHECKPOINT if model_path is None else model_path,
            protocol=UNIPERCEPT,
            device=device,
            dtype=dtype_name(dtype) if isinstance(dtype, torch.dtype) else dtype,
            batch_size=batch_size,
            published_arithmetic=published_arithmetic,
        )

    def reward(self, image_paths: Iterable[str | os.PathLike[str]]) -> list[dict[str, float] | None]:
        """Score pictures.

        Args:
            image_paths: paths or uris; memory is used for one batch at a time.

        Returns:
            For each, in order, `iaa`, `iqa` and `ista` from 0 to 100; None if it cannot be read, which is logged as a
            warning with the reason.

        Raises:
            UsageError: it is one path, and no list.
            RunError: not even one image fits into the device's memory.
        """
        if isinstance(image_paths, str | bytes | os.PathLike):
            raise UsageError(f"reward() takes a list of paths: write [{image_paths!r}].")
        rewards: list[dict[str, float] | None] = []
        batch: dict[int, Pixels] = {}  # place among the rewards → picture
        for path in image_paths:
            try:
                batch[len(rewards)] = input_pixels(path, self.options)
            except ImageError as error:
                _log.warning("%s", error)
            rewards.append(None)
            if len(batch) >= self.model.batch_size:
                self._fill(rewards, batch)
        self._fill(rewards, batch)
        return rewards

    def _fill(self, rewards: list[dict[str, float] | None], batch: dict[int, Pixels]) -> None:
        """Write the scores of a batch to their places, and empty it."""
        for place, score in zip(batch, self.model.score(list(batch.values()), options=self.options), strict=True):
            rewards[place] = dict(score.scores)
        batch.clear()
