"""The `artimuse` command, in this process or as a user runs it; what it wrote, and its death at a chosen moment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch

import pyarrow.dataset as ds
import typer.main
from support.golden import golden_checkpoint
from support.ray_head import joined_once, ray_address

ARTIMUSE = [sys.executable, "-m", "jobs"]

_get_command = cache(typer.main.get_command)  # all commands are made of their functions once, and not for each call


def run_artimuse(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command in this process; it must end with this exit code, and without a traceback."""
    from jobs.__main__ import main

    command = ["artimuse", *map(str, arguments)]
    screen, errors = _empty_files()
    with (
        patch.object(sys, "argv", command),
        patch.object(typer.main, "get_command", _get_command),
        patch.dict(os.environ),
        contextlib.redirect_stdout(screen),
        contextlib.redirect_stderr(errors),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # as for users; what is deprecated in our own code, other tests see
        ended = main()
    return _checked(subprocess.CompletedProcess(command, ended, _read(screen), _read(errors)), code)


def run_command(
    *arguments: str | Path, code: int = 0, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does, as a process that starts Ray itself; checked as by `run_artimuse`."""
    command = [*ARTIMUSE, *map(str, arguments)]
    variables = {**os.environ, **(environment or {})}
    return _checked(subprocess.run(command, capture_output=True, text=True, timeout=200, env=variables), code)


def run_job(command: str, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command in this process; what it gives to Ray is done by the head of `ray_address`."""
    with joined_once():
        return run_artimuse(command, *arguments, "--address", ray_address(), code=code)


def run_score(source: str | Path, out: str | Path, *options: str | Path, protocol: str = "artimuse") -> str:
    """`artimuse score` with a golden checkpoint, in this process and without Ray; returns its screen."""
    return run_artimuse("score", source, "--out", out, *golden_options(protocol), "--local", *options).stdout


def golden_options(protocol: str = "artimuse") -> tuple[str | Path, ...]:
    """Options that name a golden checkpoint."""
    return ("--checkpoint", golden_checkpoint(protocol), "--protocol", protocol)


def _checked(done: subprocess.CompletedProcess[str], code: int) -> subprocess.CompletedProcess[str]:
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@cache
def _files() -> tuple[IO[str], IO[str]]:
    # Real ones, since Ray asks for their number; never closed, since it may go on writing there.
    return tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")


def _empty_files() -> tuple[IO[str], IO[str]]:
    for file in _files():
        file.seek(0)
        file.truncate()
    return _files()


def _read(file: IO[str]) -> str:
    file.flush()
    file.seek(0)
    return file.read()


def table_rows(out: str | Path, table: str = "scores") -> dict[str, dict[str, Any]]:
    """image_id → row of a table, each id once."""
    rows = ds.dataset(f"{out}/{table}").to_table().to_pylist()
    assert len({row["image_id"] for row in rows}) == len(rows)
    return {row["image_id"]: row for row in rows}


def kill_when(
    command: Sequence[str | Path], is_time: Callable[[], bool], log: Path, meanwhile: Callable[[], None]
) -> int:
    """Run a command until it is time to kill it with all its descendants; returns its exit code.

    `meanwhile` takes a fifth of the time at most, so that it does not hold up what it looks at.
    """
    with log.open("wb") as file:
        process = subprocess.Popen(list(map(str, command)), stdout=file, stderr=file)
    try:
        while process.poll() is None and not is_time():
            began = time.monotonic()
            meanwhile()
            time.sleep(max(0.02, 4 * (time.monotonic() - began)))
    finally:
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
