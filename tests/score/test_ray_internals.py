from __future__ import annotations

from jobs.score import ray_internals


def test_the_private_parts_of_ray_that_a_run_needs_are_still_there() -> None:
    ray_internals.check()
