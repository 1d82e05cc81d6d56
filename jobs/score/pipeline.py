"""The pipeline: one Ray Data operator a step, one block a unit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pyarrow as pa

from jobs.code_identity import this_code
from jobs.plan.plan import Plan, in_groups
from jobs.score.actor_pool import ActorPool
from jobs.score.load import UnitLoader
from jobs.score.stage import UnitStager
from jobs.store.store import Store
from schemas.units import UNIT, staged_unit

if TYPE_CHECKING:
    from ray.data import Dataset

    from artimuse_actor.actor import ActorConfig

MOST_UNITS_A_TASK: Final = 200
TASKS: Final = 5_000
# Staging takes next to no CPU. With none at all it would also run on nodes without any, such as a head that takes no
# work, where Ray keeps no idle process and starts one for every task.
LOADER_CPUS: Final = 0.99
STAGER_CPUS: Final = 0.01


def pipeline(
    units: list[tuple[int, int]],
    store: Store,
    plan: Plan,
    actor: ActorConfig,
    pool: ActorPool,
    actors_per_gpu: int,
    loader: UnitLoader,
    run_id: str,
) -> Dataset:
    """Units, as (shard, unit), → receipts, one block a unit from loading on."""
    import ray.data

    from artimuse_actor.actor import ArtiMuseActor

    # What Ray is given costs its driver 40 kB and 3 ms a block, before the first one is loaded. So a large job's units
    # are given to it in tens and hundreds, and the load tasks hand them on one by one.
    size = min(MOST_UNITS_A_TASK, -(-len(units) // TASKS))
    groups = in_groups(plan, units, size)
    blocks = [pa.table(list(zip(*group, strict=True)), schema=UNIT) for group in groups]
    return (
        ray.data.from_arrow(blocks)
        .map_batches(
            loader,
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=LOADER_CPUS,
        )
        # `map_batches` wants a number of rows for a step on GPUs, and would join units to reach it.
        .map_batches_internal(
            ArtiMuseActor,
            fn_constructor_args=(actor,),
            compute=ray.data.ActorPoolStrategy(
                min_size=pool.fewest,
                max_size=pool.most,
                # The next block arrives while this one is scored: 96% busy instead of 49% with a stub at a GPU's pace.
                max_concurrent_calls_per_actor=2,
                enable_true_multi_threading=True,
            ),
            batch_size=None,
            batch_format="pyarrow",
            # The pool and the loaders share one budget of CPUs, and two of them would deadlock.
            num_cpus=0,
            num_gpus=1 / actors_per_gpu if actor.device == "cuda" else 0,
        )
        .map_batches(
            UnitStager(
                store.place, plan, staged_unit(store.schema, store.texts), store.texts, run_id, code=this_code()
            ),
            # Ray sets CPUs aside for every step that may take more of them: of two, the loaders were left with one.
            compute=ray.data.TaskPoolStrategy(size=pool.most),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=STAGER_CPUS,
        )
    )
