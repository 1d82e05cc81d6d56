"""The product's actor with a model that only sleeps, at the pace of a GPU, and writes down when."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import artimuse_actor.actor
from artimuse_actor.actor import ArtiMuseActor
from artimuse_actor.actor_config import ActorConfig
from artimuse_actor.engine.scoring import LEVEL_COUNT, Scores
from artimuse_actor.images.options import Pixels

PACE_VARIABLE = "ARTIMUSE_BENCH_SECONDS_PER_IMAGE"
LOG_VARIABLE = "ARTIMUSE_BENCH_LOG"
SHAPE_VARIABLE = "ARTIMUSE_BENCH_SHAPE"
GATE_VARIABLE = "ARTIMUSE_BENCH_GATE"  # a file that holds all models up as long as it is there


class SleepingModel:
    """Sleeps where `ArtiMuse.score_pixels` would compute; at pace 0 it reads every pixel once instead."""

    batch_size = 1_000  # a pass for each unit
    hardware: Mapping[str, Any] = {}

    def __init__(self) -> None:
        self._seconds_per_image = float(os.environ[PACE_VARIABLE])
        self._log = Path(os.environ[LOG_VARIABLE])
        self._gate = Path(os.environ.get(GATE_VARIABLE, ""))

    def score_pixels(self, pixels: Pixels) -> Scores:
        """(N, 448, 448, 3) uint8 → mean values for scores; one line of the log: start, end, N, process."""
        while self._gate.is_file():
            time.sleep(0.05)
        start = time.time()
        if self._seconds_per_image:
            time.sleep(len(pixels) * self._seconds_per_image)
            means = np.zeros(len(pixels), dtype=np.float32)
        else:
            means = np.array([picture.mean() for picture in pixels], dtype=np.float32)
        with self._log.open("a") as log:
            log.write(f"{start} {time.time()} {len(pixels)} {os.getpid()}\n")
        distribution = np.zeros((len(pixels), 1, LEVEL_COUNT), dtype=np.float32)
        return Scores(score=means[:, None], std=np.zeros_like(means)[:, None], distribution=distribution)


class SleepingActor(ArtiMuseActor):
    """`ArtiMuseActor` in everything but its model."""

    def __init__(self, config: ActorConfig) -> None:
        with patch.object(artimuse_actor.actor, "_load_model", lambda *_: SleepingModel()):
            super().__init__(config)
