"""A run on a Ray cluster: what its nodes fetch of a checkpoint on S3, and a node that runs other code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest
from support.golden import golden_checkpoint
from support.other_code import digest_of, other_code
from support.photo_library import make_photos
from support.score_job import descendants, run_artimuse, run_command, table_rows

from jobs.code_identity import this_code

pytestmark = [pytest.mark.ray, pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(240)]

# Adds a node with the environment that is given on each line.
CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster

cluster = Cluster()
for line in sys.stdin:
    cluster.add_node(num_cpus=2, env_vars=json.loads(line))
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
cluster.shutdown()
"""


@dataclass
class Nodes:
    """A cluster that has no node yet."""

    process: subprocess.Popen[str]

    def add(self, environment: Mapping[str, str]) -> str:
        """Start a node whose processes have this environment; returns the address of the cluster."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(environment) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip
    try:
        yield Nodes(process)
    finally:
        family = [process.pid, *descendants(process.pid)]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            for pid in family:
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def s3(s3_environment: dict[str, str]) -> dict[str, str]:
    """The environment in which a bucket holds a checkpoint."""
    client = fsspec.filesystem("s3")
    client.mkdir("models")
    for path in golden_checkpoint("artimuse").iterdir():
        client.pipe_file(f"models/ArtiMuse/{path.name}", path.read_bytes())
    return s3_environment


def copies(cache: Path) -> int:
    return len([path for path in (cache / "checkpoints").glob("*") if path.is_dir()])


def test_a_node_fetches_once_a_driver_that_only_plans_stores_nothing_and_another_code_is_refused(
    nodes: Nodes, s3: dict[str, str], tmp_path: Path
) -> None:
    names, out = make_photos(tmp_path / "photos", 24), tmp_path / "out"
    address = nodes.add({**s3, "ARTIMUSE_CACHE": str(tmp_path / "node")})
    options = ("--checkpoint", "s3://models/ArtiMuse", "--address", address, "--actors", "2", "--unit-size", "4")
    driver = {**s3, "ARTIMUSE_CACHE": str(tmp_path / "driver"), "RAY_AUTH_MODE": "disabled"}
    run_command("score", tmp_path / "photos", "--out", out, *options, environment=driver)
    assert sorted(table_rows(out)) == names
    assert (copies(tmp_path / "driver"), copies(tmp_path / "node")) == (0, 1)
    (run,) = json.loads(run_artimuse("status", out, "--json").stdout)["runs"]
    assert 1 <= len(run["loads"]) <= 2
    assert all(load["node"] and load["fetch_s"] > 0 and load["load_s"] > 0 for load in run["loads"])
    assert 0 < run["load_share"] < 1
    assert not list((out / "_runs").glob("*/loads/*"))

    nodes.add({**s3, **other_code(tmp_path), "ARTIMUSE_CACHE": str(tmp_path / "node")})
    make_photos(tmp_path / "more", 60)
    done = run_command("score", tmp_path / "more", "--out", tmp_path / "refused", *options, code=1, environment=driver)
    theirs = digest_of(tmp_path / "code")
    assert (
        f"runs other code than the driver: sources {theirs[:6]} in {tmp_path / 'code'} instead of "
        f"{this_code().sources[:6]}. Install the same on all nodes, or leave that one out"
    ) in done.stderr
