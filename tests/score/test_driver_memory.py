"""The memory of a run: Ray keeps no statistics of units that are done, and on one machine no helpers."""

from __future__ import annotations

import subprocess
import sys

import pytest

DRIVER = """
import gc
from jobs.score.ray_session import running_ray

with running_ray(None, 2**20):
    import ray.data

    left = None
    rows = ray.data.range(40, override_num_blocks=20).map_batches(lambda rows: rows, batch_size=None).iter_rows()
    for number, _ in enumerate(rows):
        if number == 39:
            left = [type(thing).__name__ for thing in gc.get_objects() if type(thing).__name__ == "BlockStats"]
    helpers = ray.util.list_named_actors(all_namespaces=True)
    print(number + 1, "rows", len(left), "statistics", len(helpers), "helpers")
"""


@pytest.mark.process
@pytest.mark.ray
@pytest.mark.timeout(120)
def test_ray_keeps_no_statistics_of_units_that_are_done_and_has_no_helpers_on_one_machine() -> None:
    done = subprocess.run([sys.executable, "-c", DRIVER], capture_output=True, text=True, timeout=110)
    assert done.stdout.split() == ["40", "rows", "0", "statistics", "0", "helpers"], done.stderr[-2000:]
