"""The machines that a run works on: a Ray cluster, or this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from artimuse_actor.checkpoint.network_config import AUTO_DTYPES
from artimuse_actor.errors import UsageError
from jobs.score.actor_pool import ActorPool

_ACCELERATOR = "accelerator_type:"
_APPLE = re.compile(r"M\d(-|$)|Apple")
_BEFORE_AMPERE = re.compile(r"[KP]\d+$|M\d\d|V100|T\d|GeForce-(GTX|RTX-20)|GTX|TITAN|Quadro")


@dataclass(frozen=True)
class Cluster:
    """The machines that a run works on: a Ray cluster, or this machine.

    Attributes:
        gpus: number of its GPUs now.
        cpus: number of its CPU cores now.
        gpu: the device that a GPU is: `cuda`, or `mps` of Apple. Ray has one resource for both.
        gpu_dtype: the precision of `--dtype auto` on all of its GPUs, see `resolve_dtype`.
        nodes: number of its machines with CPU cores for a run, at least one.
    """

    gpus: int
    cpus: int
    gpu: str = "cuda"
    gpu_dtype: str = AUTO_DTYPES["cuda"]
    nodes: int = 1

    @classmethod
    def of(cls, resources: Mapping[str, float], nodes: int = 1) -> Cluster:
        """The cluster with these of Ray's resources.

        Where Ray's name of a card does not tell that it is before Ampere, bfloat16 is emulated: slow, and not wrong.
        """
        names = [name.removeprefix(_ACCELERATOR) for name in resources if name.startswith(_ACCELERATOR)]
        gpu = "mps" if any(map(_APPLE.match, names)) else "cuda"
        is_old = any(map(_BEFORE_AMPERE.match, names))
        dtype = "float32" if is_old else AUTO_DTYPES[gpu]
        return cls(int(resources.get("GPU", 0)), int(resources.get("CPU", 0)), gpu, dtype, max(1, nodes))

    @classmethod
    def joined(cls) -> Cluster:
        """The cluster of the Ray that runs."""
        import ray

        nodes = sum(bool(node["Alive"] and node["Resources"].get("CPU")) for node in ray.nodes())
        return cls.of(ray.cluster_resources(), nodes)

    def device(self, asked: str, *, may_grow: bool = False) -> str:
        """The device of all actors: `cpu`, `cuda` or `mps`.

        Args:
            asked: one of these, or `auto`.
            may_grow: whether GPUs may be added later, as with an autoscaler.

        Raises:
            UsageError: the device is unknown, or not in the cluster.
        """
        if asked not in ("auto", *AUTO_DTYPES):
            raise UsageError(f"--device takes auto, cpu, cuda or mps, not {asked!r}; Ray hands the GPUs out.")
        has_gpu = self.gpus > 0
        if asked == "cuda" and not (has_gpu and self.gpu == "cuda") and not may_grow:
            raise UsageError("--device cuda: Ray sees no GPU for CUDA. Try --device cpu, or check nvidia-smi.")
        if asked == "mps" and not (has_gpu and self.gpu == "mps"):
            raise UsageError("--device mps: Ray sees no GPU of Apple. Try --device cpu.")
        return (self.gpu if has_gpu else "cpu") if asked == "auto" else asked

    def auto_dtype(self, device: str) -> str:
        """The precision of `--dtype auto` on a device of the cluster."""
        return self.gpu_dtype if device == self.gpu else AUTO_DTYPES[device]

    def default_pool(self, device: str, actors_per_gpu: int) -> ActorPool:
        """`actors_per_gpu` models on each GPU; one model on the CPU."""
        actors = 1 if device == "cpu" else max(1, self.gpus * actors_per_gpu)
        return ActorPool(actors, actors)

    def loading_cores(self, device: str, actors: int) -> int:
        """Cores that are left for loading; each model on the CPU takes one."""
        return max(1, self.cpus - (actors if device == "cpu" else 0))
