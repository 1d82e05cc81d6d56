"""A run on GPUs that are numbers only, with a model that sleeps: what Ray is asked for, and that units stay units."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import golden_checkpoint
from photo_library import make_photos
from score_job import table_rows

from bench.cluster import cluster
from bench.sleeping import LOG_VARIABLE, PACE_VARIABLE

ROOT = Path(__file__).parent.parent


@pytest.mark.timeout(240)
def test_a_growing_pool_shares_gpus_and_scores_every_row_once(tmp_path: Path) -> None:
    names = make_photos(tmp_path / "photos", 43)
    command = [
        sys.executable,
        ROOT / "bench" / "sleeping_job.py",
        "score",
        tmp_path / "photos",
        "--out",
        tmp_path / "o",
    ]
    command += ["--checkpoint", golden_checkpoint("artimuse"), "--protocol", "artimuse", "--device", "cuda"]
    command += ["--actors", "1:4", "--actors-per-gpu", "2", "--unit-size", "4", "--log-format", "json"]
    variables = {LOG_VARIABLE: str(tmp_path / "log"), PACE_VARIABLE: "0.2", "RAY_AUTH_MODE": "disabled"}
    with cluster([1, 1], variables) as address:
        done = subprocess.run(
            list(map(str, [*command, "--address", address])),
            env={**os.environ, **variables}, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(table_rows(tmp_path / "o")) == names
    staged = [json.loads(line) for line in done.stderr.splitlines() if '"unit_staged"' in line]
    assert sorted((line["unit"], line["rows"]) for line in staged) == [*((unit, 4) for unit in range(10)), (10, 3)]
    assert sum(int(line.split()[2]) for line in (tmp_path / "log").read_text().splitlines()) == len(names)
