"""Faults of real runs: processes and nodes that die, signals, a second run. Every row once, whatever happens."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from support.golden import golden_checkpoint
from support.photo_library import make_photos
from support.score_job import ARTIMUSE, descendants, run_artimuse, run_command, table_rows
from support.small_disk import resize, small_disk

pytestmark = [pytest.mark.ray, pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(240)]

OPTIONS = (
    "--checkpoint",
    golden_checkpoint("artimuse"),
    "--protocol",
    "artimuse",
    "--unit-size",
    "4",
    "--batch-size",
    "1",
)


def _said(screen: str) -> list[str]:
    """Its lines but those of the progress, which come as often as time passes."""
    return [line for line in screen.splitlines() if " images (" not in line]


def _start(photos: Path, out: Path, log: Path, *options: str | Path, **environment: str) -> subprocess.Popen[bytes]:
    command = [*ARTIMUSE, "score", photos, "--out", out, *OPTIONS, *options]
    with log.open("wb") as file:
        return subprocess.Popen(list(map(str, command)), stdout=file, stderr=file, env={**os.environ, **environment})


def _staged(out: Path) -> int:
    return len(list((out / "_runs").glob("*/staging/*/*.parquet")))


def _wait(process: subprocess.Popen[bytes], is_time: Callable[[], bool]) -> None:
    while process.poll() is None and not is_time():
        time.sleep(0.1)


def _ray_processes(of: int, name: str) -> Iterator[int]:
    """The processes of Ray below this one that are at work on a step of this name."""
    for pid in descendants(of):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if title.startswith("ray::") and name in title:
            yield pid


def test_processes_that_die_in_the_middle_are_replaced_and_the_run_goes_on(tmp_path: Path) -> None:
    names, out = make_photos(tmp_path / "photos", 100), tmp_path / "out"
    process = _start(tmp_path / "photos", out, tmp_path / "log", "--ray")
    for step, staged in (("UnitLoader", 0), ("ArtiMuseActor", 1), ("ArtiMuseActor", 8)):  # loaders are done early
        _wait(process, partial(_has_staged, out, staged))
        victims: list[int] = []
        _wait(process, partial(_found, victims, process.pid, step))
        assert victims, (tmp_path / "log").read_text()
        os.kill(victims[0], signal.SIGKILL)
    assert process.wait(timeout=200) == 0, (tmp_path / "log").read_text()
    assert sorted(table_rows(out)) == names
    assert all(row["status"] == "ok" for row in table_rows(out).values())


def _found(victims: list[int], of: int, name: str) -> bool:
    victims.extend(_ray_processes(of, name))
    return bool(victims)


def _has_staged(out: Path, units: int) -> bool:
    return _staged(out) >= units


BROKEN_DEVICE = """
import importlib.abc, importlib.util, os, sys

class Broken(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "artimuse_actor.actor":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module._load_model = break_down

        spec.loader.exec_module = exec_module
        return spec

def break_down(*_):
    with open(os.environ["STARTS"], "a") as log:
        log.write("start\\n")
    if os.environ["DEVICE"] == "dies":
        os._exit(1)
    raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable")

sys.meta_path.insert(0, Broken())
"""


@pytest.mark.parametrize(
    ("device", "tries", "says"),
    [("dies", 3, "A model's process died 3 times while it started, on {node}."),
     ("raises", 4, "On node {node} no model can be loaded: CUDA error: all CUDA-capable devices are busy")],
)  # fmt: skip
def test_a_model_that_cannot_start_is_tried_a_few_times_and_the_node_is_named(
    tmp_path: Path, device: str, tries: int, says: str
) -> None:
    make_photos(tmp_path / "photos", 5)
    (tmp_path / "sitecustomize.py").write_text(BROKEN_DEVICE)
    starts = tmp_path / "starts"
    environment = {"PYTHONPATH": str(tmp_path), "DEVICE": device, "STARTS": str(starts)}
    done = run_command(
        "score", tmp_path / "photos", "--out", tmp_path / "out", *OPTIONS, "--ray", code=1, environment=environment
    )
    assert f"RunError: {says.format(node=socket.gethostname())}" in done.stderr
    assert len(_said(done.stderr)) < 4
    assert not done.stdout  # where Ray prints what its processes die of
    assert len(starts.read_text().splitlines()) == tries
    assert not (tmp_path / "out" / "scores").exists()


@pytest.mark.parametrize("where", ["--ray", "--local"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_asked_to_end_commits_lets_the_lock_go_and_goes_on_later(
    tmp_path: Path, number: signal.Signals, code: int, where: str
) -> None:
    names, out = make_photos(tmp_path / "photos", 72), tmp_path / "out"
    process = _start(tmp_path / "photos", out, tmp_path / "log", where)
    _wait(process, lambda: _staged(out) >= 3)
    process.send_signal(number)
    began = time.monotonic()
    assert process.wait(timeout=60) == code, (tmp_path / "log").read_text()
    assert time.monotonic() - began < 30  # a spot machine gives two minutes
    assert "run the same command again to go on" in (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()
    (run,) = json.loads(run_artimuse("status", out, "--json").stdout)["runs"]
    assert run["state"] == "interrupted"
    staged = _staged(out)
    assert staged >= 3
    run_artimuse("score", tmp_path / "photos", "--out", out, *OPTIONS, "--local")
    runs = json.loads(run_artimuse("status", out, "--json").stdout)["runs"]
    assert runs[1]["scored_rows"] <= len(names) - 4 * (staged - 1)
    assert sorted(table_rows(out)) == names


def test_a_signal_before_ray_has_started_ends_the_run_too(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 5)
    process = _start(tmp_path / "photos", tmp_path / "out", tmp_path / "log", "--ray")
    _wait(process, lambda: (tmp_path / "out" / "_plan.json").exists())
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143, (tmp_path / "log").read_text()


def test_a_second_run_is_refused_and_names_the_first_and_a_dead_ones_lock_is_taken_over(tmp_path: Path) -> None:
    names, out = make_photos(tmp_path / "photos", 60), tmp_path / "out"
    process = _start(tmp_path / "photos", out, tmp_path / "log", "--ray")
    _wait(process, lambda: _staged(out) >= 1)
    done = run_artimuse("score", tmp_path / "photos", "--out", out, *OPTIONS, code=1)
    (run,) = json.loads(run_artimuse("status", out, "--json").stdout)["runs"]
    assert f"StoreLocked: {out}: run {run['run_id']} (process {process.pid} on" in done.stderr
    family = [process.pid, *descendants(process.pid)]
    for pid in family:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    run_artimuse("score", tmp_path / "photos", "--out", out, *OPTIONS, "--local")
    assert sorted(table_rows(out)) == names


def test_a_full_disk_stops_the_run_with_a_sentence_and_it_can_go_on(tmp_path: Path) -> None:
    names, small = make_photos(tmp_path / "photos", 40), tmp_path / "small"
    with small_disk(small, "64k"):
        # It is full at one place, then at another one, and then there is room.
        for size, run, where in (("100k", run_command, "--ray"), ("64m", run_artimuse, "--local")):
            done = run("score", tmp_path / "photos", "--out", small / "out", *OPTIONS, where, code=1)
            assert re.search(r"StoreError: .*No space left on device", done.stderr)
            assert len(_said(done.stderr)) < 4
            resize(small, size)
        run_artimuse("score", tmp_path / "photos", "--out", small / "out", *OPTIONS, "--local")
        assert sorted(table_rows(small / "out")) == names
