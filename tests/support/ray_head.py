"""One small Ray head for each test process, which jobs join through its address instead of starting a Ray."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from support.marks import note

from jobs.score.local_ray import LOCAL_ENVIRONMENT, secret_environment

ENVIRONMENT: Final = {**LOCAL_ENVIRONMENT, **secret_environment(), "RAY_USAGE_STATS_ENABLED": "0"}
"""Environment of the head and of all that joins it."""

_TRIES: Final = 3  # on a busy machine Ray may give its own start up

# It ends when its input does, so also when this process is killed.
_PROGRAM: Final = """
import sys
import ray

head = ray.init(
    address="local", num_cpus=2, object_store_memory=300 * 1024**2, include_dashboard=False, log_to_driver=False,
    _temp_dir=sys.argv[1],
)
print(head.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class _Head:
    process: subprocess.Popen[str]
    folder: str
    address: str


_heads: Final[list[_Head]] = []


def ray_address() -> str:
    """Address of this process's head, which is started when it is first asked for."""
    note("ray")
    if not _heads:
        _heads.append(_start_head())
    return _heads[0].address


def _start_head() -> _Head:
    for _ in range(_TRIES):
        folder = tempfile.mkdtemp(prefix="ray-")  # short: the paths of its sockets may have 107 bytes
        with open(f"{folder}/head.log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, folder],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env={**os.environ, **ENVIRONMENT},
            )  # fmt: skip
        assert process.stdout is not None
        head = _Head(process, folder, process.stdout.readline().strip())
        if head.address:
            return head
        said = _stop(head)
    raise RuntimeError(f"No Ray head starts here:\n{said[-3000:]}")


def _stop(head: _Head) -> str:
    """End a head by closing its input; returns what it wrote to standard error."""
    head.process.communicate(timeout=60)
    said = Path(head.folder, "head.log").read_text()
    shutil.rmtree(head.folder, ignore_errors=True)
    return said


@contextmanager
def joined_once() -> Iterator[None]:
    """The first job in this block joins the head, and the next ones find Ray joined: their processes are warm.

    To join and to leave takes a job three seconds of CPU. That both work is shown by the tests that start a process.
    """
    import ray

    join = ray.init

    def join_if_alone(**options: Any) -> None:
        if not ray.is_initialized():
            join(**options)

    with (
        patch.dict(os.environ, ENVIRONMENT),
        patch.object(ray, "init", join_if_alone),
        patch.object(ray, "shutdown"),
    ):
        yield


def stop_ray_head() -> None:
    """End the head and all its processes, if it was started."""
    if _heads:
        import ray

        ray.shutdown()
    while _heads:
        _stop(_heads.pop())
