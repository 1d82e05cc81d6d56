"""ArtiMuseActor: one device, one block in, one block out.

The only module here that is made for Ray: it imports nothing of it, but takes and gives Arrow blocks, holds the model
for the life of its process, and may be called by two threads, so that one block arrives while another is scored.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from artimuse_actor.errors import ArtiMuseError, CheckpointError, UsageError
from artimuse_actor.hub import open_checkpoint
from artimuse_actor.images import IMAGE_SIZE, PIXEL_BYTES, Pixels
from artimuse_actor.protocols import get_protocol
from schemas.scores import scored_unit

if TYPE_CHECKING:
    from artimuse_actor.artimuse import ArtiMuse, BatchSize

# torch and the model are imported by the actor's own process only: the driver needs this class, but not them.


@dataclass(frozen=True)
class ActorConfig:
    """What an actor is started with.

    Attributes:
        checkpoint: folder or name.
        checkpoint_digest: of the files it must be.
        protocol: name of the protocol.
        device: `cpu` or `cuda`.
        dtype: as `--dtype`.
        batch_size: as `--batch-size`.
        keep_distribution: whether the probabilities are kept.
        actors_per_node: how many share a node's CPU cores.
    """

    checkpoint: str
    checkpoint_digest: str
    protocol: str
    device: str
    dtype: str
    batch_size: BatchSize
    keep_distribution: bool
    actors_per_node: int = 1


class ArtiMuseActor:
    """Scores the decoded images of one unit at a time."""

    def __init__(self, config: ActorConfig) -> None:
        """Load the model.

        Raises:
            RunError: it does not fit into this device's memory.
        """
        self._lock = threading.Lock()
        self._questions = tuple(get_protocol(config.protocol).score_questions)
        self._keep_distribution = config.keep_distribution
        self._schema = scored_unit(self._questions, keep_distribution=config.keep_distribution)
        self._refusal: ArtiMuseError | None = None
        try:
            self._model = _load_model(config)
        except (CheckpointError, UsageError) as error:
            # Ray takes an exception here for a bad node and tries elsewhere, again and again; this one would be
            # the same everywhere, so the first unit says it.
            self._refusal = error

    def __call__(self, unit: pa.Table) -> pa.Table:
        """A block of schema `LOADED_UNIT` → one of schema `scored_unit`, row by row.

        Raises:
            CheckpointError: the checkpoint cannot be loaded, or is another one than the driver's.
        """
        if self._refusal is not None:
            raise self._refusal
        pixels = unit["pixels"].combine_chunks()
        readable = np.flatnonzero(pixels.is_valid().to_numpy(zero_copy_only=False))
        images = _pixel_array(pixels)
        with self._lock:
            scores = self._model.score_pixels(images[readable] if len(readable) < len(images) else images)
        columns = {name: unit[name] for name in self._schema.names if name in unit.column_names}
        for index, question in enumerate(self._questions):
            columns[question] = _scatter(scores.score[:, index], readable, len(unit))
            columns[f"{question}_std"] = _scatter(scores.std[:, index], readable, len(unit))
            if self._keep_distribution:
                rows = [None] * len(unit)
                for row, distribution in zip(readable, scores.distribution[:, index], strict=True):
                    rows[row] = distribution
                columns[f"{question}_distribution"] = rows
        return pa.table([columns[name] for name in self._schema.names], schema=self._schema)


def _load_model(config: ActorConfig) -> ArtiMuse:
    import torch

    from artimuse_actor.artimuse import ArtiMuse

    if config.device == "cpu":
        # Ray gives a worker one thread; the model may have all cores that loading leaves.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.actors_per_node))
    checkpoint = open_checkpoint(config.checkpoint)
    if checkpoint.digest != config.checkpoint_digest:
        raise CheckpointError(
            f"{checkpoint.folder}: is checkpoint {checkpoint.digest[:6]} on this node, but "
            f"{config.checkpoint_digest[:6]} where the run was started. Give all nodes the same files."
        )
    return ArtiMuse.load(
        checkpoint,
        protocol=config.protocol,
        device=config.device,
        dtype=config.dtype,
        batch_size=config.batch_size,
    )


def _pixel_array(pixels: pa.FixedSizeBinaryArray) -> Pixels:
    """(N, 448, 448, 3) uint8, a view of Arrow's buffer; rows of nulls hold anything."""
    data = np.frombuffer(pixels.buffers()[1], dtype=np.uint8, offset=pixels.offset * PIXEL_BYTES)
    return data[: len(pixels) * PIXEL_BYTES].reshape(len(pixels), IMAGE_SIZE, IMAGE_SIZE, 3)


def _scatter(values: np.ndarray, rows: np.ndarray, count: int) -> pa.Array:
    scattered = np.zeros(count, dtype=np.float32)
    absent = np.ones(count, dtype=bool)
    scattered[rows] = values
    absent[rows] = False
    return pa.array(scattered, mask=absent)
