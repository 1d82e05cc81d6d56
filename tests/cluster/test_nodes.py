"""A run on a Ray cluster: what its nodes fetch of a checkpoint on S3, and a node that runs other code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from support.golden import golden_checkpoint
from support.other_code import digest_of, other_code
from support.photo_library import make_photos
from support.score_job import run_artimuse, run_command, table_rows

from bench.job.emulated_cluster import EmulatedCluster, emulated_cluster
from jobs.code_identity import this_code

pytestmark = [pytest.mark.ray, pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def s3(s3_environment: dict[str, str]) -> dict[str, str]:
    """The environment in which a bucket holds a checkpoint."""
    client = fsspec.filesystem("s3")
    client.mkdir("models")
    for path in golden_checkpoint("artimuse").iterdir():
        client.pipe_file(f"models/ArtiMuse/{path.name}", path.read_bytes())
    return s3_environment


@pytest.fixture
def cluster(s3: dict[str, str], tmp_path: Path) -> Iterator[EmulatedCluster]:
    """One node, with a cache of checkpoints of its own."""
    with emulated_cluster([], head_cpus=2, variables={**s3, "ARTIMUSE_CACHE": str(tmp_path / "node")}) as running:
        yield running


def copies(cache: Path) -> int:
    return len([path for path in (cache / "checkpoints").glob("*") if path.is_dir()])


def test_a_node_fetches_once_a_driver_that_only_plans_stores_nothing_and_another_code_is_refused(
    cluster: EmulatedCluster, s3: dict[str, str], tmp_path: Path
) -> None:
    names, out = make_photos(tmp_path / "photos", 24), tmp_path / "out"
    options = (
        "--checkpoint", "s3://models/ArtiMuse", "--address", cluster.address, "--actors", "2", "--unit-size", "4",
    )  # fmt: skip
    driver = {**s3, "ARTIMUSE_CACHE": str(tmp_path / "driver"), "RAY_AUTH_MODE": "disabled"}
    run_command("score", tmp_path / "photos", "--out", out, *options, environment=driver)
    assert sorted(table_rows(out)) == names
    assert (copies(tmp_path / "driver"), copies(tmp_path / "node")) == (0, 1)
    (run,) = json.loads(run_artimuse("status", out, "--json").stdout)["runs"]
    assert 1 <= len(run["loads"]) <= 2
    assert all(load["node"] and load["fetch_s"] > 0 and load["load_s"] > 0 for load in run["loads"])
    assert 0 < run["load_share"] < 1
    assert not list((out / "_runs").glob("*/loads/*"))

    cluster.add_node(cpus=2, variables=other_code(tmp_path))
    make_photos(tmp_path / "more", 60)
    done = run_command("score", tmp_path / "more", "--out", tmp_path / "refused", *options, code=1, environment=driver)
    theirs = digest_of(tmp_path / "code")
    assert (
        f"runs other code than the driver: sources {theirs[:6]} in {tmp_path / 'code'} instead of "
        f"{this_code().sources[:6]}. Install the same on all nodes, or leave that one out"
    ) in done.stderr
