"""Planning: how long and how much memory it takes to cut a large Parquet manifest into shards and units.

    python bench/tables/plan.py [--small]

Each run is a process of its own, into an empty store on this disk: nothing but `make_plan` and the modules it needs.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started

import pyarrow as pa
import pyarrow.parquet as pq

from artimuse_actor.protocol.protocols import ARTIMUSE
from bench.measure.machine import machine_line
from jobs.manifest.source import open_manifest
from jobs.store.plan_progress import PlanProgress
from jobs.store.store import Store
from schemas.fingerprint import Fingerprint

FILES: Final = 8
FINGERPRINT: Final = Fingerprint("ArtiMuse", "c" * 64, ARTIMUSE.name, ARTIMUSE.digest, "rgb-bicubic-448/1")
GOAL_S: Final = 60
GOAL_BYTES: Final = 2e9


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a hundred thousand rows")
    parser.add_argument("--rows", type=int, nargs="+", help="of the manifests (default 1000000 10000000)")
    parser.add_argument("--plan", nargs=2, metavar=("MANIFEST", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.plan:
        plan_once(*options.plan)
        return 0

    print(machine_line("pyarrow", "numpy"))
    print(f"{FILES} Parquet files with image_id, uri and version, zstd, row groups as pyarrow makes them\n")
    print("|       rows | shards | plan, s | peak memory, MB | rows/s    |")
    print("| ---------: | -----: | ------: | --------------: | --------: |")
    for rows in options.rows or ([100_000] if options.small else [1_000_000, 10_000_000]):
        with tempfile.TemporaryDirectory(prefix="bench") as folder:
            write_manifest(Path(folder, "manifest"), rows)
            command = [sys.executable, __file__, "--plan", f"{folder}/manifest", f"{folder}/out"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            shards, seconds, peak = done.stdout.split()
            rate = rows / float(seconds)
            print(
                f"| {rows:10,} | {shards:>6} | {float(seconds):7.1f} | {int(peak) / 1e6:15,.0f} | {rate:9,.0f} |",
                flush=True,
            )
    print(f"\ngoal for ten million rows: {GOAL_S} s and {GOAL_BYTES / 1e6:,.0f} MB")
    return 0


def plan_once(manifest: str, out: str) -> None:
    """Plan in this process; prints shards, seconds and peak bytes."""
    store = Store.for_run(out, FINGERPRINT, ARTIMUSE, keep_distribution=False)
    start = time.perf_counter()
    plan = PlanProgress.begin(store, open_manifest(manifest), "bench").plan
    seconds = time.perf_counter() - start
    print(len(plan.shards), seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def write_manifest(folder: Path, rows: int) -> None:
    """Names as a bucket has them, etags for versions."""
    folder.mkdir()
    share = -(-rows // FILES)
    for file in range(FILES):
        numbers = range(file * share, min(rows, (file + 1) * share))
        with pq.ParquetWriter(folder / f"part-{file:05}.parquet", _SCHEMA, compression="zstd") as writer:
            step = 1024**2  # pyarrow's row group
            for start in range(0, len(numbers), step):
                writer.write_table(_rows(numbers[start : start + step]))


_SCHEMA = pa.schema([("image_id", pa.string()), ("uri", pa.string()), ("version", pa.string())])


def _rows(numbers: range) -> pa.Table:
    names = [f"2026/{number % 1000:03}/photo-{number:09}.jpg" for number in numbers]
    uris = [f"s3://photos/originals/{name}" for name in names]
    versions = [f"{(number * 0x9E3779B97F4A7C15) % 2**128:032x}" for number in numbers]
    return pa.table([names, uris, versions], schema=_SCHEMA)


if __name__ == "__main__":
    sys.exit(main())
