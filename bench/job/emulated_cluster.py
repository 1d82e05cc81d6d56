"""A Ray cluster of several nodes on this machine, which grows and loses nodes on demand; its GPUs are numbers only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from bench.measure.machine import ROOT
from jobs.score.local_ray import LOCAL_ENVIRONMENT

_PROGRAM: Final = """
import json, sys
from ray.cluster_utils import Cluster
from jobs.score import ray_internals

head, nodes = json.loads(sys.argv[1])
with ray_internals.without_helpers(keep_statistics=True):
    cluster = Cluster(initialize_head=True, head_node_args=head)
added = [cluster.add_node(**node) for node in nodes]
cluster.wait_for_nodes()
print(cluster.address, flush=True)
for line in sys.stdin:
    node = json.loads(line)
    if node is None:
        cluster.remove_node(added.pop(0), allow_graceful=False)
    else:
        added.append(cluster.add_node(**node))
        cluster.wait_for_nodes()
    print("done", flush=True)
cluster.shutdown()
"""
_HEAD_STORE: Final = 10**9
_NODE_STORE: Final = 10**8


class EmulatedCluster:
    """A running cluster; see `emulated_cluster`.

    Attributes:
        address: for `--address`.
        pid: of the process that all nodes descend from.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid
        self.address = self._answer()

    def add_node(self, cpus: int = 0, gpus: int = 0, variables: Mapping[str, str] | None = None) -> None:
        """A node joins, with these variables beside those of all nodes."""
        self._tell(json.dumps({**_node(cpus, gpus), "env_vars": dict(variables or {})}))

    def lose_oldest_node(self) -> None:
        """The node that joined first, the head aside, dies with all its processes."""
        self._tell("null")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise RuntimeError("The emulated cluster has ended.")
        return answer


@contextmanager
def emulated_cluster(
    nodes: list[tuple[int, int]], *, head_cpus: int = 0, variables: Mapping[str, str] | None = None
) -> Iterator[EmulatedCluster]:
    """Start a head and a node for each pair of numbers of CPUs and GPUs; at the end all are gone.

    Args:
        nodes: CPUs and GPUs of each.
        head_cpus: of the head, 0 for one that takes no work.
        variables: of the environment of all nodes, further ones.
    """
    open_to_jobs = {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
    environment = {**os.environ, **LOCAL_ENVIRONMENT, **open_to_jobs, "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= variables or {}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    layout = [{"num_cpus": head_cpus, "object_store_memory": _HEAD_STORE}, [_node(*node) for node in nodes]]
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, json.dumps(layout)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield EmulatedCluster(process)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(timeout=120)


def _node(cpus: int, gpus: int) -> dict[str, Any]:
    return {"num_cpus": cpus, "num_gpus": gpus, "object_store_memory": _NODE_STORE}
