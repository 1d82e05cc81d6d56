"""A Ray session for one run: started here, or joined elsewhere, with Ray's own output muted."""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from importlib.util import find_spec
from typing import IO, Any, Self

from artimuse_actor.errors import RunError, UsageError
from jobs.score import ray_internals
from jobs.score.actor_starts import StartLog
from jobs.score.cluster import Cluster
from jobs.score.local_ray import local_environment, session_folder
from jobs.score.signals import listen
from jobs.score.task_errors import own_errors

# Read by Ray when it is imported: no telemetry.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray's C++ parts write their own warnings to the terminal.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
_REACHABLE_WITHIN_S = 10.0
_EXPORTER_NEEDS = ("opencensus", "opentelemetry", "prometheus_client", "aiohttp_cors")  # some of ray[default]


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
