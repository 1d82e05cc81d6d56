"""A Ray session for one run: started here, or joined elsewhere, with Ray's own output muted."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, Any, Self

from artimuse_actor.checkpoint.network_config import AUTO_DTYPES
from artimuse_actor.errors import ArtiMuseError, ImageError, RunError, UsageError, one_line, reason_of
from jobs.score import ray_internals
from jobs.score.actor_pool import ActorPool
from jobs.score.actor_starts import StartLog
from jobs.score.local_ray import local_environment, session_folder
from jobs.score.signals import listen

if TYPE_CHECKING:
    from ray.exceptions import RayError

# Read by Ray when it is imported: no telemetry.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray's C++ parts write their own warnings to the terminal.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
_REACHABLE_WITHIN_S = 10.0
_ACCELERATOR = "accelerator_type:"
_APPLE = re.compile(r"M\d(-|$)|Apple")
_BEFORE_AMPERE = re.compile(r"[KP]\d+$|M\d\d|V100|T\d|GeForce-(GTX|RTX-20)|GTX|TITAN|Quadro")
_EXPORTER_NEEDS = ("opencensus", "opentelemetry", "prometheus_client", "aiohttp_cors")  # some of ray[default]


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


class RayOfRuns:
    """The Ray of one run or several: the first that needs one starts or joins it, and it ends after the last."""

    def __init__(self, address: str | None) -> None:
        """Start nothing yet: `address` is that of a cluster, or None to start Ray here."""
        self._address = address
        self._running = ExitStack()
        self._is_running = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with without_messages_of_ray():
            self._running.close()

    @contextmanager
    def of_run(self, block_bytes: int, starts: StartLog) -> Iterator[Cluster]:
        """`running_ray` that says nothing and raises our own errors, see `own_errors`."""
        with without_messages_of_ray():
            if not self._is_running:
                self._running.enter_context(running_ray(self._address, block_bytes))
                self._is_running = True
            from ray.data import DataContext

            DataContext.get_current().target_max_block_size = block_bytes
            with own_errors(starts):
                yield Cluster.joined()


@contextmanager
def running_ray(address: str | None, block_bytes: int) -> Iterator[Cluster]:
    """Ray for one run: started here, for this run alone, and stopped at the end, or joined at an address.

    Args:
        address: address of a cluster, or None to start Ray here.
        block_bytes: target size of a block of pixels: Ray joins smaller blocks of a task, and leaves larger ones.

    Raises:
        RunError: the cluster cannot be reached.
    """
    with _own_ray() if address is None else _ray_at(address) as where, _started(where, block_bytes) as cluster:
        yield cluster


@contextmanager
def _own_ray() -> Iterator[dict[str, Any]]:
    """The arguments of `ray.init` that start a Ray here."""
    port = _metrics_port()
    with (
        local_environment(),
        session_folder() as folder,
        ray_internals.without_helpers(keep_statistics=port is not None),
    ):
        exporter = ray_internals.metrics_port(port)
        yield {"address": "local", "include_dashboard": False, "_temp_dir": folder, **exporter}


@contextmanager
def _ray_at(address: str) -> Iterator[dict[str, Any]]:
    """The arguments of `ray.init` that join a Ray."""
    _check_reachable(address)
    yield {"address": address}


@contextmanager
def _started(where: dict[str, Any], block_bytes: int) -> Iterator[Cluster]:
    import ray
    from ray.data import DataContext

    ray_internals.read_environment()
    with tempfile.TemporaryFile() as said:
        try:
            with _stderr_kept_in(said):
                ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # of many kinds, RayError and OSError among them
            said.seek(0)
            details = " ".join([str(error), *said.read().decode(errors="replace").split()])
            there = "this machine" if where["address"] == "local" else where["address"]
            raise RunError(f"Ray at {there} cannot be used: {details[:2000]}") from error
    listen()  # Ray ends its driver by SIGTERM with an exit code of its own
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = block_bytes
    context.raise_original_map_exception = True  # an error of a task arrives as it was raised, see `own_errors`
    context.max_consecutive_actor_init_deaths = 3  # the default of 0 fails the job at the first crash
    ray_internals.keep_no_statistics()
    # Errors arrive as exceptions, and are reported once.
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        yield Cluster.joined()
    finally:
        ray.shutdown()


def _metrics_port() -> int | None:
    """The port of Ray's exporter, if the user has chosen one; otherwise Ray takes any free port.

    Raises:
        UsageError: it is not a port, or packages of the exporter are missing.
    """
    asked = os.environ.get("ARTIMUSE_METRICS_PORT", "")
    if asked and not (asked.isdecimal() and 0 < int(asked) < 65536):
        raise UsageError(f"ARTIMUSE_METRICS_PORT takes a port from 1 to 65535, not {asked!r}.")
    missing = [name for name in _EXPORTER_NEEDS if find_spec(name) is None]
    if asked and missing:
        raise UsageError(
            f"ARTIMUSE_METRICS_PORT: Ray's exporter needs {missing[0]}, which is not installed. Install the extra "
            "`metrics`, or unset it."
        )
    return int(asked) if asked else None


def _check_reachable(address: str) -> None:
    """Raise if nothing listens at an address; Ray itself would wait ten minutes before it gives up."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdecimal():
        return  # such as `auto`, which Ray answers at once
    try:
        socket.create_connection((host, int(port)), timeout=_REACHABLE_WITHIN_S).close()
    except OSError as error:
        raise RunError(
            f"Ray at {address} cannot be reached: {error}. Check the address with `ray status`, or leave --address out."
        ) from error


@contextmanager
def _stderr_kept_in(file: IO[bytes]) -> Iterator[None]:
    """Redirect file descriptor 2 to a file, so that of C++ too: Ray logs there while it starts."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        os.dup2(file.fileno(), 2)
        yield
        sys.stderr.flush()
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@contextmanager
def without_messages_of_ray() -> Iterator[None]:
    """Drop standard output, where a thread of Ray prints why its processes died, whether or not the run goes on.

    Nothing else is printed there during a run, and an error that stops the run is raised. `--debug` shows all.
    """
    is_shown = bool(os.environ.get("ARTIMUSE_DEBUG"))
    with open(os.devnull, "w") as nowhere, nullcontext() if is_shown else redirect_stdout(nowhere):
        yield


@contextmanager
def own_errors(starts: StartLog) -> Iterator[None]:
    """Turn Ray's error about a task or an actor back into our own exception, or into a RunError.

    Args:
        starts: has the errors of actors that could not start.
    """
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise _own_error(error, starts) from error


def _own_error(error: RayError, starts: StartLog) -> ArtiMuseError:
    from ray.exceptions import RayActorError, RaySystemError

    node = ray_internals.node_of(error)
    where = f" at {node}" if node else ""
    cause = getattr(error, "cause", error)  # only errors of tasks have one; those of constructors are only text
    if isinstance(cause, ArtiMuseError) and not isinstance(cause, ImageError):  # an ImageError becomes a row
        return cause
    if isinstance(error, RayActorError) and error.actor_init_failed:
        last = str(error).strip().splitlines()[-1]
        return starts.failure() or RunError(
            f"A model{where} could not be started: {last}. Install the same code on all nodes, or leave that "
            "one out, and run again; what was committed stays."
        )
    if isinstance(cause, RaySystemError) and isinstance(cause.client_exc, ImportError | AttributeError):
        # Its process could not unpickle the step, so it never compared its code, see `code_identity`.
        return RunError(
            f"A node{where} does not have this code, but an older one or none: {reason_of(cause.client_exc)}. "
            "Install the same on all nodes, or leave that one out, and run again; what was committed stays."
        )
    return task_failure(cause)


def task_failure(cause: BaseException) -> RunError:
    """The error of a run one of whose steps raised what is not ours, such as OSError of a full disk."""
    first = str(cause).partition("\n")[0]  # Ray Data appends advice of its own
    said = f"{type(cause).__name__}: {one_line(first)}"
    return RunError(f"A task of the run failed: {said}. What was committed stays; run again.")
