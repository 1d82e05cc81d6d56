"""The pipeline: one Ray Data operator a step, one block a unit from loading on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from jobs.plan.plan import Plan, in_groups
from jobs.score.actor_pool import ActorPool
from jobs.score.load import UnitLoader
from jobs.score.ray_internals import map_whole_blocks
from jobs.score.stage import UnitStager
from schemas.units import UNIT

if TYPE_CHECKING:
    from ray.data import Dataset

    from artimuse_actor.actor_config import ActorConfig

MOST_UNITS_A_TASK: Final = 200
TASKS: Final = 5_000
# Staging takes almost no CPU. With num_cpus=0 it would also run on nodes without CPUs, such as a head that takes no
# work, where Ray keeps no idle process and starts one for every task.
LOADER_CPUS: Final = 0.99
STAGER_CPUS: Final = 0.01


@dataclass(frozen=True)
class Steps:
    """The steps of a run.

    Attributes:
        loader: units → pixels.
        actor: settings of each model; pixels → scores and texts.
        pool: number of models.
        gpus_per_actor: share of a GPU for each model.
        stager: scores and texts → receipts.
    """

    loader: UnitLoader
    actor: ActorConfig
    pool: ActorPool
    gpus_per_actor: float
    stager: UnitStager


def receipts(units: list[pa.Table], steps: Steps) -> Iterator[dict[str, Any]]:
    """Blocks of schema `UNIT` → receipts of schema `RECEIPT`, as rows."""
    return iter(pipeline(units, steps).iter_rows())


def pipeline(units: list[pa.Table], steps: Steps) -> Dataset:
    """Blocks of schema `UNIT` → receipts of schema `RECEIPT`."""
    import ray.data

    from artimuse_actor.actor import ArtiMuseActor

    loaded = ray.data.from_arrow(units).map_batches(
        steps.loader, batch_size=None, batch_format="pyarrow", num_cpus=LOADER_CPUS
    )
    scored = map_whole_blocks(
        loaded,
        ArtiMuseActor,
        fn_constructor_args=(steps.actor,),
        compute=ray.data.ActorPoolStrategy(
            min_size=steps.pool.fewest,
            max_size=steps.pool.most,
            # The next block arrives while this one is scored: 96% busy instead of 49% with a stub at a GPU's pace.
            max_concurrent_calls_per_actor=2,
            enable_true_multi_threading=True,
        ),
        # The pool and the loaders share one budget of CPUs, and two of them would deadlock.
        num_cpus=0,
        num_gpus=steps.gpus_per_actor,
    )
    return scored.map_batches(
        steps.stager,
        # Without a fixed size Ray reserves CPUs for this step too: of two CPUs, the loaders were left with one.
        compute=ray.data.TaskPoolStrategy(size=steps.pool.most),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=STAGER_CPUS,
    )


def unit_blocks(plan: Plan, units: list[tuple[int, int]]) -> list[pa.Table]:
    """Units, as (shard, unit), in blocks of schema `UNIT` for Ray.

    A block costs Ray's driver 40 kB and 3 ms before it is loaded. So a block of a large job has tens or hundreds of
    units, and its load task returns them one by one.
    """
    size = min(MOST_UNITS_A_TASK, -(-len(units) // TASKS))
    return [pa.table(list(zip(*group, strict=True)), schema=UNIT) for group in in_groups(plan, units, size)]
