from __future__ import annotations

import pytest

from jobs.score import ray_internals


@pytest.mark.slow
def test_the_private_parts_of_ray_that_a_run_needs_are_still_there() -> None:
    ray_internals.check()


def test_a_cluster_that_is_joined_later_has_its_helpers() -> None:
    from ray._private.node import Node
    from ray.data._internal import stats
    from ray.data._internal.cluster_autoscaler import rate_based_cluster_autoscaler as autoscaler
    from ray.data._internal.execution.operators import actor_pool_map_operator as pool

    def parts() -> list[object]:
        names = ("register_dataset_to_stats_actor", "update_execution_metrics", "update_iteration_metrics")
        kept = [vars(stats._StatsManager)[name] for name in names]
        started = [vars(Node)[name] for name in ("start_monitor", "start_log_monitor", "start_api_server")]
        locations = [vars(pool)[name] for name in ("get_or_create_actor_location_tracker", "get_actor_locations")]
        return [*kept, *started, *locations, vars(autoscaler)["DefaultAutoscalingCoordinator"]]

    before = parts()
    with ray_internals.without_helpers(keep_statistics=False):
        assert not set(parts()) & set(before)
    assert parts() == before
    with ray_internals.without_helpers(keep_statistics=True):
        assert parts()[:3] == before[:3]
        assert not set(parts()[3:]) & set(before)
    assert parts() == before
