"""The private parts of Ray 2.60 that a run needs, each with the upstream line that it works around.

A test calls `check`, which fails if a new version of Ray lacks one of them, and names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from inspect import getsource, signature
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ray.data import Dataset
    from ray.exceptions import RayError


_PROCESSES: Final = ("start_monitor", "start_log_monitor", "start_api_server")
_LOCATIONS: Final = ("get_or_create_actor_location_tracker", "get_actor_locations")
_STATISTICS: Final = ("register_dataset_to_stats_actor", "update_execution_metrics", "update_iteration_metrics")


def check() -> None:
    """Assert that all these parts are still there.

    Raises:
        AssertionError: names the missing part.
    """
    import ray
    from ray._private import ray_constants, services
    from ray._private.node import Node
    from ray.data import Dataset
    from ray.data._internal import stats
    from ray.data._internal.cluster_autoscaler import base_autoscaling_coordinator, rate_based_cluster_autoscaler
    from ray.data._internal.execution.operators import actor_pool_map_operator, map_operator
    from ray.exceptions import RayTaskError

    assert "to_stats(" in getsource(map_operator.MapOperator), "map_operator.to_stats"
    taken = signature(Dataset.map_batches_internal).parameters.keys()
    assert {"fn", "batch_size", "compute"} <= taken, "Dataset.map_batches_internal"
    assert '"_metrics_export_port"' in getsource(ray.init), "ray.init(_metrics_export_port=…)"
    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR == "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "a Ray on loopback only"
    assert "ENABLE_RAY_CLUSTER:" in getsource(services.get_node_ip_address), "a Ray on loopback only"
    raylet: Any = ray._raylet
    assert callable(raylet.Config.initialize), "ray._raylet.Config"
    assert callable(raylet.AuthenticationTokenLoader.instance().reset_cache), "ray._raylet.AuthenticationTokenLoader"
    assert vars(Node).keys() >= set(_PROCESSES), "_private.node.Node"
    assert vars(stats._StatsManager).keys() >= set(_STATISTICS), "stats._StatsManager"
    asked = base_autoscaling_coordinator.AutoscalingCoordinator.__abstractmethods__
    assert vars(_WholeNode).keys() >= asked, "AutoscalingCoordinator"
    made = "autoscaling_coordinator = DefaultAutoscalingCoordinator("
    assert made in getsource(rate_based_cluster_autoscaler), "rate_based_cluster_autoscaler"
    assert vars(actor_pool_map_operator).keys() >= set(_LOCATIONS), "actor_pool_map_operator"
    assert "tracker.update_actor_location.remote(" in getsource(actor_pool_map_operator._MapWorker), "_MapWorker"
    error = RayTaskError("step", "Traceback (most recent call last):\nValueError: x", ValueError("x"), ip="10.0.0.7")
    assert node_of(error.as_instanceof_cause()) == "10.0.0.7", "the address in the text of a RayTaskError"


def read_environment() -> None:
    """Let a Ray that was imported before act on the environment as it is now.

    Its mode of authentication (`RayConfig`), its token and whether it stays on loopback are read on import
    (_private/authentication_test_utils.py reads them again in this order; _private/ray_constants.py).
    """
    import ray
    from ray._common.utils import env_bool
    from ray._private import ray_constants

    if ray.is_initialized():
        return
    raylet: Any = ray._raylet
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()
    ray_constants.ENABLE_RAY_CLUSTER = env_bool(
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, not ray_constants.IS_WINDOWS_OR_OSX
    )


def map_whole_blocks(rows: Dataset, step: Any, **options: Any) -> Dataset:
    """`map_batches` of whole blocks on GPUs.

    `Dataset.map_batches` refuses `batch_size=None` with GPUs ("You must provide `batch_size` to `map_batches`",
    data/dataset.py), and would join units to reach a number of rows.
    """
    mapped: Dataset = rows.map_batches_internal(step, batch_size=None, batch_format="pyarrow", **options)
    return mapped


def keep_no_statistics() -> None:
    """Keep no statistics of finished units in the driver.

    `MapOperator._get_next_inner` (data/_internal/execution/operators/map_operator.py) keeps 2.5 kB of each unit for
    a summary that is not used: 2.5 GB for a million units.
    """
    from ray.data._internal.execution.operators import map_operator

    vars(map_operator)["to_stats"] = lambda *_: []


@contextmanager
def without_helpers(*, keep_statistics: bool) -> Iterator[None]:
    """Start a Ray of one node without what only a cluster or somebody who watches it needs.

    Of Ray's processes (_private/node.py) the monitor would add nodes, the log monitor send what workers print to the
    driver, and the server of the API show jobs to a dashboard: 85 MB and half a second of CPU each, and Ray waits for
    the last one. Three actors of Ray Data's own take 190 MB and a second of CPU each:
    `_StatsActor` (data/_internal/stats.py) has what a dashboard or an exporter shows. `_AutoscalingCoordinatorActor`
    (data/_internal/cluster_autoscaler/default_autoscaling_coordinator.py) shares nodes out among jobs, and no step
    starts before it has answered. `ActorLocationTracker` (data/_internal/execution/node_trackers/actor_location.py)
    knows the node of each actor.

    Args:
        keep_statistics: whether somebody asks for them.
    """
    from ray._private.node import Node
    from ray.data._internal import stats
    from ray.data._internal.cluster_autoscaler import rate_based_cluster_autoscaler
    from ray.data._internal.execution.operators import actor_pool_map_operator

    with ExitStack() as changes:
        _change(changes, rate_based_cluster_autoscaler, "DefaultAutoscalingCoordinator", _WholeNode)
        for name in _PROCESSES:
            _change(changes, Node, name, lambda *_, **__: None)
        for name, value in zip(_LOCATIONS, (_NoLocations, lambda _: {}), strict=True):
            _change(changes, actor_pool_map_operator, name, value)
        for name in () if keep_statistics else _STATISTICS:
            _change(changes, stats._StatsManager, name, staticmethod(lambda *_, **__: None))
        yield


def _change(changes: ExitStack, owner: Any, name: str, value: object) -> None:
    """Set an attribute until these changes end."""
    changes.callback(setattr, owner, name, vars(owner)[name])
    setattr(owner, name, value)


class _WholeNode:
    """Stands in for `DefaultAutoscalingCoordinator`: the run has all resources of its node."""

    def __init__(self, **_: object) -> None:
        import ray

        self._resources = {node["NodeID"]: node["Resources"] for node in ray.nodes()}

    def request_resources(self, *_: object, **__: object) -> None:
        """Nothing: no node will come."""

    def cancel_request(self) -> None:
        """Nothing: none was asked for."""

    def get_reserved_resources(self) -> dict[str, dict[str, float]]:
        """Node → its resources."""
        return self._resources


class _NoLocations:
    """Stands in for the handle of an `ActorLocationTracker`, to which each actor tells its node."""

    @property
    def update_actor_location(self) -> _NoLocations:
        """Its method."""
        return self

    def remote(self, *_: object) -> None:
        """Nothing: there is one node."""


def metrics_port(port: int | None) -> dict[str, Any]:
    """The arguments of `ray.init` that give Ray's exporter this port.

    The public way is `ray start --metrics-export-port`; `ray.init` takes it as a private argument
    (_private/worker.py, `_metrics_export_port` in `kwargs`).
    """
    return {"_metrics_export_port": port}


def node_of(error: RayError) -> str | None:
    """The address of the node on which a task failed, if Ray knows it.

    `RayTaskError._make_normal_dual_exception_instance` (exceptions.py) keeps `ip` only in the text.
    """
    found = re.search(r"\bip=([\w.:]+)", str(error))
    return found[1] if found else None
