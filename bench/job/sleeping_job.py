"""`artimuse score` as a process of its own, with `SleepingActor` for the actor: what other benchmarks start.

    python bench/job/sleeping_job.py score SOURCE --out OUT --checkpoint CKPT …

Pace and log of the model come from the environment, see `bench.job.sleeping`; likewise, if set, the job's shape: rows
of a shard, and how many blocks Ray is given before they get more than one unit.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH")]))  # Ray's workers'

import artimuse_actor.actor
import jobs.score.pipeline
import jobs.score.settings
from bench.job.sleeping import SHAPE_VARIABLE, SleepingActor
from jobs.__main__ import main

if __name__ == "__main__":
    with ExitStack() as patches:
        patches.enter_context(patch.object(artimuse_actor.actor, "ArtiMuseActor", SleepingActor))
        if SHAPE_VARIABLE in os.environ:
            rows, blocks = map(int, os.environ[SHAPE_VARIABLE].split())
            shaped = partial(jobs.score.settings.ScoreSettings, shard_rows=rows)
            patches.enter_context(patch.object(jobs.score.settings, "ScoreSettings", shaped))
            patches.enter_context(patch.object(jobs.score.pipeline, "TASKS", blocks))
        sys.exit(main())
