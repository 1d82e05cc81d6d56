"""`artimuse score` as a process of its own, with `SleepingActor` for the actor: what other benchmarks start.

    python bench/sleeping_job.py score SOURCE --out OUT --checkpoint CKPT …

Pace and log of the model come from the environment, see `bench.sleeping`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout, wherever this is started
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH")]))  # Ray's workers'

import artimuse_actor.actor
from bench.sleeping import SleepingActor
from jobs.__main__ import main

if __name__ == "__main__":
    with patch.object(artimuse_actor.actor, "ArtiMuseActor", SleepingActor):
        main()
