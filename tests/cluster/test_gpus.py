"""Runs on GPUs that are numbers only, with a model that sleeps: what Ray is asked for, and nodes that come and go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.golden import golden_checkpoint
from support.paths import REPO
from support.photo_library import make_photos
from support.score_job import has_files, table_rows

from bench.job.emulated_cluster import emulated_cluster
from bench.job.sleeping import GATE_VARIABLE, LOG_VARIABLE, PACE_VARIABLE

pytestmark = [pytest.mark.ray, pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(240)]


def _start(folder: Path, address: str, pace_s: float, *options: str) -> subprocess.Popen[str]:
    """Score `folder/photos` into `folder/out` with a sleeping model, a JSON line for each unit."""
    command = [
        sys.executable,
        REPO / "bench" / "job" / "sleeping_job.py",
        "score",
        folder / "photos",
        "--out",
        folder / "out",
    ]
    command += ["--checkpoint", golden_checkpoint("artimuse"), "--protocol", "artimuse", "--device", "cuda"]
    command += ["--unit-size", "4", "--log-format", "json", "--address", address, *options]
    environment = {**os.environ, **_variables(folder, pace_s)}
    return subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True)


def _variables(folder: Path, pace_s: float) -> dict[str, str]:
    sleeping = {LOG_VARIABLE: str(folder / "log"), PACE_VARIABLE: str(pace_s), GATE_VARIABLE: str(folder / "gate")}
    return sleeping | {"RAY_AUTH_MODE": "disabled"}


def test_a_growing_pool_shares_gpus_and_scores_every_row_once(tmp_path: Path) -> None:
    names = make_photos(tmp_path / "photos", 43)
    with emulated_cluster([(0, 1), (0, 1)], head_cpus=2, variables=_variables(tmp_path, 0.2)) as cluster:
        process = _start(tmp_path, cluster.address, 0.2, "--actors", "1:4", "--actors-per-gpu", "2")
        screen = process.communicate(timeout=200)[1]
    assert process.returncode == 0, screen
    assert sorted(table_rows(tmp_path / "out")) == names
    staged = [json.loads(line) for line in screen.splitlines() if '"unit_staged"' in line]
    assert sorted((line["unit"], line["rows"]) for line in staged) == [*((unit, 4) for unit in range(10)), (10, 3)]
    assert sum(int(line.split()[2]) for line in (tmp_path / "log").read_text().splitlines()) == len(names)


def test_a_node_that_joins_is_used_and_one_that_is_lost_is_not_missed(tmp_path: Path) -> None:
    names = make_photos(tmp_path / "photos", 44)
    with emulated_cluster([(1, 1)], variables=_variables(tmp_path, 0.3)) as cluster:
        process = _start(tmp_path, cluster.address, 0.3, "--actors", "1:3")
        _wait_for(process, lambda: _staged(tmp_path) >= 2)
        (tmp_path / "gate").touch()  # so that there is work left however long a node takes to join
        assert _loaded(tmp_path) == 1  # the one node has one GPU
        cluster.add_node(cpus=1, gpus=1)
        _wait_for(process, lambda: _loaded(tmp_path) == 2)
        assert _staged(tmp_path) < 9, "too late to lose anything"
        cluster.lose_oldest_node()
        (tmp_path / "gate").unlink()
        screen = process.communicate(timeout=200)[1]
    assert process.returncode == 0, screen
    assert sorted(table_rows(tmp_path / "out")) == names
    assert has_files(tmp_path / "out" / "scores", 1)


def _wait_for(process: subprocess.Popen[str], is_time: Callable[[], bool]) -> None:
    while process.poll() is None and not is_time():
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()[1]


def _staged(folder: Path) -> int:
    return len(list((folder / "out" / "_runs").glob("*/staging/*/*.parquet")))


def _loaded(folder: Path) -> int:
    """Number of models loaded so far."""
    return len(list((folder / "out" / "_runs").glob("*/loads/*.json")))
