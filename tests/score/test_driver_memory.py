"""The memory of the driver: Ray keeps no statistics of units that are done."""

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
    print(number + 1, "rows", len(left), "statistics")
"""


@pytest.mark.process
@pytest.mark.ray
@pytest.mark.timeout(120)
def test_ray_keeps_no_statistics_of_units_that_are_done() -> None:
    done = subprocess.run([sys.executable, "-c", DRIVER], capture_output=True, text=True, timeout=110)
    assert done.stdout.split() == ["40", "rows", "0", "statistics"], done.stderr[-2000:]
