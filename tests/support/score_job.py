"""The `artimuse` command as a user runs it, what it wrote, and its death at a chosen moment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
from support.golden import golden_checkpoint

ARTIMUSE = [sys.executable, "-m", "jobs"]


def run_artimuse(
    *arguments: str | Path, code: int = 0, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; it must end with this exit code, and without a traceback."""
    command = [*ARTIMUSE, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, env={**os.environ, **(environment or {})}, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def run_score(
    source: str | Path,
    out: str | Path,
    *options: str | Path,
    protocol: str = "artimuse",
    environment: Mapping[str, str] | None = None,
) -> str:
    """`artimuse score` with a golden checkpoint; returns its screen."""
    checkpoint = ("--checkpoint", golden_checkpoint(protocol), "--protocol", protocol)
    return run_artimuse("score", source, "--out", out, *checkpoint, *options, environment=environment).stdout


def table_rows(out: str | Path, table: str = "scores") -> dict[str, dict[str, Any]]:
    """image_id → row of a table, each id once."""
    rows = ds.dataset(f"{out}/{table}").to_table().to_pylist()
    assert len({row["image_id"] for row in rows}) == len(rows)
    return {row["image_id"]: row for row in rows}


def kill_when(
    command: Sequence[str | Path], is_time: Callable[[], bool], log: Path, meanwhile: Callable[[], None]
) -> int:
    """Run a command until it is time to kill it with all its descendants; returns its exit code."""
    with log.open("wb") as file:
        process = subprocess.Popen(list(map(str, command)), stdout=file, stderr=file)
    while process.poll() is None and not is_time():
        meanwhile()
        time.sleep(0.02)
    family = [process.pid, *descendants(process.pid)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    for pid in family[1:]:  # Ray's own processes notice by and by; the next run does not wait for them
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return process.returncode


def has_files(folder: Path, count: int) -> bool:
    """Whether a folder is there and has so many entries."""
    return folder.exists() and len(list(folder.iterdir())) >= count


def descendants(pid: int) -> list[int]:
    """All processes below a process, children before their children."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    return found[1:]
