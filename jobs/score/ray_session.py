"""Ray, started here or joined elsewhere, and quiet."""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, Final

from artimuse_actor.errors import ArtiMuseError, ImageError, RunError, UsageError, one_line, reason_of
from jobs.score import ray_internals
from jobs.score.actor_pool import ActorPool
from jobs.score.actor_starts import StartLog
from jobs.score.signals import listen

if TYPE_CHECKING:
    from ray.exceptions import RayError

# Read by Ray when it is imported: no telemetry, and no token file for a cluster that only this process can reach.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Its C++ parts write warnings of their own making to the terminal.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
_REACHABLE_WITHIN_S = 10.0
_EXPORTER_NEEDS = ("opencensus", "opentelemetry", "prometheus_client", "aiohttp_cors")  # some of ray[default]
LOCAL_ENVIRONMENT: Final = {
    "RAY_AUTH_MODE": "disabled",
    # After a second Ray ends an idle process beyond one for each CPU, and the next unit to stage waits for a new one.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
}


@dataclass(frozen=True)
class Cluster:
    """The Ray cluster that a run works on.

    Attributes:
        gpus: how many it has now.
        cpus: cores, likewise.
    """

    gpus: int
    cpus: int

    def device(self, asked: str, *, may_grow: bool = False) -> str:
        """`cpu` or `cuda`, for all actors.

        Args:
            asked: `auto`, `cpu` or `cuda`.
            may_grow: whether GPUs that are not there yet may come, as with an autoscaler.

        Raises:
            UsageError: the device is unknown, or not in the cluster.
        """
        if asked not in ("auto", "cpu", "cuda"):
            raise UsageError(f"--device takes auto, cpu or cuda, not {asked!r}; Ray hands the GPUs out.")
        if asked == "cuda" and not self.gpus and not may_grow:
            raise UsageError("--device cuda: Ray sees no GPU. Try --device cpu, or check nvidia-smi.")
        return ("cuda" if self.gpus else "cpu") if asked == "auto" else asked

    def default_pool(self, device: str, actors_per_gpu: int) -> ActorPool:
        """So many models on each GPU; one on the CPU."""
        actors = max(1, self.gpus * actors_per_gpu) if device == "cuda" else 1
        return ActorPool(actors, actors)

    def loading_cores(self, device: str, actors: int) -> int:
        """What is left for loading; models on the CPU take theirs."""
        return max(1, self.cpus - (actors if device == "cpu" else 0))


@contextmanager
def running_ray(address: str | None, block_bytes: int) -> Iterator[Cluster]:
    """Ray for one run: started here if no address is given, and then stopped at the end.

    Args:
        address: of a cluster, or None.
        block_bytes: what a block of pixels has at least; smaller ones of a task are joined, larger ones are left alone.

    Raises:
        RunError: the cluster cannot be reached.
    """
    if address is None:
        for name, value in LOCAL_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    else:
        _check_reachable(address)
    metrics_port = _metrics_port() if address is None else None
    import ray
    from ray.data import DataContext

    with tempfile.TemporaryFile() as said:
        try:
            with _stderr_kept_in(said):
                ray.init(
                    address=address or "local",
                    include_dashboard=False if address is None else None,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **ray_internals.metrics_port(metrics_port),
                )
        except Exception as error:  # of many kinds, RayError and OSError among them
            said.seek(0)
            details = " ".join([str(error), *said.read().decode(errors="replace").split()])
            raise RunError(f"Ray at {address or 'this machine'} cannot be used: {details[:2000]}") from error
    listen()  # Ray ends its driver by SIGTERM with an exit code of its own
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = block_bytes
    context.raise_original_map_exception = True  # an error of a task arrives as it was raised, see `own_errors`
    context.max_consecutive_actor_init_deaths = 3  # the default of 0 fails the job at the first crash
    ray_internals.keep_no_statistics()
    # What goes wrong arrives as an exception, and is said once.
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        resources = ray.cluster_resources()
        yield Cluster(gpus=int(resources.get("GPU", 0)), cpus=int(resources.get("CPU", 0)))
    finally:
        ray.shutdown()


def _metrics_port() -> int | None:
    """Where Ray's exporter listens, if the user wants to know beforehand; Ray takes any free port otherwise.

    Raises:
        UsageError: it is no port, or nobody would listen there.
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
    """Ray itself waits for ten minutes before it gives an address up."""
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
    """Send standard error to a file, that of C++ too: Ray announces there that it was told to be quiet."""
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
    """Drop standard output, where a thread of Ray prints what its processes die of, whether the run goes on or not.

    Nobody else writes there during a run, and what stops the run is an error. `--debug` shows all.
    """
    is_shown = bool(os.environ.get("ARTIMUSE_DEBUG"))
    with open(os.devnull, "w") as nowhere, nullcontext() if is_shown else redirect_stdout(nowhere):
        yield


@contextmanager
def own_errors(starts: StartLog) -> Iterator[None]:
    """Turn an error that Ray carried here from a task or an actor back into our own, or into a RunError.

    Args:
        starts: where actors leave why they could not start.
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
    cause = getattr(error, "cause", error)  # of a task; an actor's constructor brings only text
    if isinstance(cause, ArtiMuseError) and not isinstance(cause, ImageError):  # those become rows
        return cause
    if isinstance(error, RayActorError) and error.actor_init_failed:
        last = str(error).strip().splitlines()[-1]
        return starts.failure() or RunError(
            f"A model{where} could not be started: {last}. Install the same code on all nodes, or leave that "
            "one out, and run again; what was committed stays."
        )
    if isinstance(cause, RaySystemError) and isinstance(cause.client_exc, ImportError | AttributeError):
        # Its process could not even read what it was to run, so that it compared nothing, see `code_identity`.
        return RunError(
            f"A node{where} does not have this code, but an older one or none: {reason_of(cause.client_exc)}. "
            "Install the same on all nodes, or leave that one out, and run again; what was committed stays."
        )
    first = str(cause).partition("\n")[0]  # Ray Data appends advice of its own
    said = f"{type(cause).__name__}: {one_line(first)}"
    return RunError(f"A task of the run failed: {said}. What was committed stays; run again.")
