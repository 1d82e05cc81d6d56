"""An emulated cluster: Ray nodes on this machine, with GPUs that are numbers only and a model that sleeps.

    python bench/job/cluster.py [--actors 1 2 4 8 16] [--seconds 40] [--long UNITS …]

As in `cluster/kuberay` a head takes no work, one node loads, and nodes with GPUs have no CPUs. What is measured is the
driver, the scheduling and the store, at the pace of real GPUs: a unit takes its model two seconds. Ideal is every model
asleep from the first call to the end of the last, the start of the others included, which all share the cores of this
machine; beside it stands the share once all have started. With --long further runs of four models at a hundred times
that pace show whether the memory of the driver and the object store stay flat when there are more units: they are given
to Ray in as many blocks as those of a large job, and its shards have as many units as usual.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from PIL import Image

from bench.job.emulated_cluster import emulated_cluster
from bench.job.pipeline import CHECKPOINT, Calls, read_calls
from bench.job.sleeping import LOG_VARIABLE, PACE_VARIABLE, SHAPE_VARIABLE
from bench.measure.machine import ROOT, machine_line
from bench.measure.memory import MIB, Finished, run_measured

UNIT_S: Final = 2.0
LONG_UNIT_S: Final = 0.02  # of a long run: what is left is the work of everything but the models
LONG_MODELS: Final = 4
LONG_SHAPE: Final = "328 40"  # rows of a shard, which has 328 units in a large job, and blocks given to Ray
GPUS_A_NODE: Final = 4
LOADING_CPUS: Final = 4  # numbers, too: room for so many tasks at a time
PICTURES: Final = 256
GOAL: Final = 0.9


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; fails if a row is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--seconds", type=float, default=40.0, help="of work for each model (default 40)")
    parser.add_argument("--long", type=int, nargs="*", default=[], metavar="UNITS", help="also runs of so many units")
    options = parser.parse_args(arguments)
    print(machine_line("ray"))
    print(f"nodes of {GPUS_A_NODE} GPUs that are numbers only; a unit takes its model {UNIT_S:g} s\n")
    print("| models | units | units/s | ideal | of ideal | once all have started | driver, MiB | object store, MiB |")
    print("| -----: | ----: | ------: | ----: | -------: | --------------------: | ----------: | ----------------: |")
    for actors in options.actors:
        finished, calls = run(actors, units=round(actors * options.seconds / UNIT_S))
        speed, ideal = calls.images_per_s, actors / UNIT_S
        print(
            f"| {actors:6} | {calls.images:5,} | {speed:7.2f} | {ideal:5.1f} | {speed / ideal:8.1%} "
            f"| {calls.all_busy:21.1%} | {finished.peak.root / MIB:11,.0f} | {finished.peak.shared / MIB:17,.0f} |",
            flush=True,
        )
    print(f"\ngoal: {GOAL:.0%} of ideal with 16 models")
    if options.long:
        print("\n|  units | driver, MiB | object store, MiB | units/s |")
        print("| -----: | ----------: | ----------------: | ------: |")
        for units in options.long:
            finished, calls = run(LONG_MODELS, units, LONG_UNIT_S, LONG_SHAPE)
            print(
                f"| {calls.images:6,} | {finished.peak.root / MIB:11,.0f} | {finished.peak.shared / MIB:17,.0f} "
                f"| {calls.images_per_s:7.1f} |",
                flush=True,
            )
    return 0


def run(actors: int, units: int, unit_s: float = UNIT_S, shape: str = "") -> tuple[Finished, Calls]:
    """One run of the job with so many sleeping models, a unit being one small picture; shape: see `sleeping_job`."""
    full, rest = divmod(actors, GPUS_A_NODE)
    gpus = [GPUS_A_NODE] * full + [rest] * bool(rest)
    with tempfile.TemporaryDirectory(prefix="bench") as name:
        folder = Path(name)
        variables = {LOG_VARIABLE: str(folder / "log"), PACE_VARIABLE: str(unit_s), "RAY_AUTH_MODE": "disabled"}
        variables |= {SHAPE_VARIABLE: shape} if shape else {}
        make_manifest(folder, units)
        command = [
            sys.executable,
            str(ROOT / "bench" / "job" / "sleeping_job.py"),
            "score",
            str(folder / "manifest.parquet"),
        ]
        command += ["--out", str(folder / "out"), "--checkpoint", str(CHECKPOINT), "--protocol", "artimuse"]
        command += ["--device", "cuda", "--actors", str(actors), "--unit-size", "1"]
        nodes = [(LOADING_CPUS, 0), *((0, count) for count in gpus)]
        with emulated_cluster(nodes, variables=variables) as cluster:
            command += ["--address", cluster.address]
            finished = run_measured(command, {**os.environ, **variables}, store_pid=cluster.pid)
        calls = read_calls(folder / "log")
        rows = ds.dataset(folder / "out" / "scores").count_rows()
    if not calls.images >= rows == units:
        raise RuntimeError(f"The table has {rows} rows, not {units}.")
    return finished, calls


def make_manifest(folder: Path, rows: int) -> None:
    """`folder/manifest.parquet`, whose rows name a few pictures of 64 × 64 pixels in turn, each by an id of its own."""
    pictures = []
    for number in range(min(rows, PICTURES)):
        pictures.append(str(folder / f"{number}.png"))
        Image.new("RGB", (64, 64), (number, 255 - number, 128)).save(pictures[-1])
    ids = [f"{number:07}" for number in range(rows)]
    uris = [pictures[number % PICTURES] for number in range(rows)]
    pq.write_table(pa.table({"image_id": ids, "uri": uris}), folder / "manifest.parquet")


if __name__ == "__main__":
    sys.exit(main())
