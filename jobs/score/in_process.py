"""The steps of a small run in this process, without Ray, whose start takes longer than the pictures of a night.

The same callables as in `pipeline`, in the same order: while one unit is scored, a thread loads the next. Pictures are
decoded in a child process, see `child_decoder`, so that one that kills its decoder does not end the run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from artimuse_actor.errors import ArtiMuseError
from artimuse_actor.node import usable_cores
from jobs.score.cluster import Cluster
from jobs.score.settings import ScoreSettings
from jobs.score.task_errors import task_failure

if TYPE_CHECKING:
    from artimuse_actor.actor import ArtiMuseActor
    from artimuse_actor.actor_config import ActorConfig
    from jobs.score.pipeline import Steps

MOST_IMAGES: Final = 256
"""Larger runs start Ray, whose loaders use all cores."""


def fits_here(settings: ScoreSettings, images: int) -> bool:
    """Whether a run of so many images needs no Ray: the user says so, or it is small and one model can do it."""
    if settings.local is not None:
        return settings.local
    is_small = settings.address is None and settings.actors is None and images <= MOST_IMAGES
    # Only Ray exports metrics.
    return is_small and not os.environ.get("ARTIMUSE_METRICS_PORT") and _gpus_here() <= 1


def _gpus_here() -> int:
    import torch

    return torch.cuda.device_count()


def this_machine() -> Cluster:
    """The GPUs and CPU cores that this process sees."""
    from artimuse_actor.engine.device import dtype_name, resolve_device, resolve_dtype

    gpu, cpus = resolve_device("auto"), usable_cores()
    if gpu.type == "cpu":
        return Cluster(gpus=0, cpus=cpus)
    return Cluster(max(1, _gpus_here()), cpus, gpu.type, dtype_name(resolve_dtype("auto", gpu)))


@contextmanager
def in_process() -> Iterator[Cluster]:
    """This machine, for one run; turns an error that is not our own into a RunError."""
    try:
        yield this_machine()
    except ArtiMuseError:
        raise
    except Exception as error:
        raise task_failure(error) from error


class ModelHere:
    """The model of this process, for one run or for several that ask for the same."""

    def __init__(self) -> None:
        """Load nothing yet."""
        self._actor: ArtiMuseActor | None = None

    def receipts(self, units: list[pa.Table], steps: Steps) -> Iterator[dict[str, Any]]:
        """Blocks of schema `UNIT` → receipts of schema `RECEIPT`, as rows."""
        with ThreadPoolExecutor(1, thread_name_prefix="load") as thread:
            loaded = steps.loader(pa.concat_tables(units))
            unit = thread.submit(next, loaded, None)
            actor = self._loaded(replace(steps.actor, actors_per_node=None))
            while (block := unit.result()) is not None:
                unit = thread.submit(next, loaded, None)
                yield from steps.stager(actor(block)).to_pylist()

    def _loaded(self, config: ActorConfig) -> ArtiMuseActor:
        from artimuse_actor.actor import ArtiMuseActor

        if self._actor is None or not self._actor.serve(config):
            self._actor = None  # before the next is loaded: a device may hold only one
            self._actor = ArtiMuseActor(config)
        return self._actor
