"""Waiting times of a user: for the help, for a finished job to say so, for the first scored image, for small jobs.

    python bench/job/startup.py [--small]

Commands as a user types them, each a few times, in turn. The first score, of ten images, is there when the first unit
is staged or committed: it includes the start of Python, the plan, the start of Ray if it is started, and the loading of
the (tiny) model. Small jobs are run in one process and with Ray. CPU seconds, of user and system, are those of a whole
command with all processes that it started, Ray's too (this process adopts them when their parents die, and waits).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started

import pyarrow as pa

from artimuse_actor.images.options import DecodeOptions
from artimuse_actor.protocol.protocols import ARTIMUSE
from bench.job.photos import make_photos
from bench.measure.machine import ROOT, machine_line
from bench.tables.plan import write_manifest
from jobs.manifest.source import open_manifest
from jobs.storage.parquet import parquet_bytes
from jobs.store.layout import staged_path
from jobs.store.plan_progress import PlanProgress, unit_rows_of
from jobs.store.store import Store
from schemas.fingerprint import Fingerprint
from schemas.units import staged_unit

CHECKPOINT: Final = ROOT / "artimuse_actor" / "verify" / "golden_set" / "artimuse" / "checkpoint"
SMALL_JOBS: Final = (1, 10, 100, 1_000)
_SET_CHILD_SUBREAPER: Final = 36  # of prctl(2)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one round, a finished job of 1,000 rows")
    parser.add_argument("--rounds", type=int, default=5, help="of all commands (default 5)")
    parser.add_argument("--largest", type=int, default=SMALL_JOBS[-1], help="images of the largest small job")
    options = parser.parse_args(arguments)
    rounds, rows = (1, 1_000) if options.small else (options.rounds, 100_000)

    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1)
    print(machine_line("ray", "torch", "transformers", "pyarrow", "typer"))
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        base = Path(folder)
        largest = SMALL_JOBS[1] if options.small else options.largest
        sizes = [images for images in SMALL_JOBS if images <= largest]
        make_photos(base / "photos", sizes[-1])
        write_manifest(base / "manifest", rows)
        fill_store(base / "finished", base / "manifest")
        waits: dict[str, Callable[[Path], float]] = {
            "artimuse --help": lambda _: seconds_of("--help"),
            "artimuse score --help": lambda _: seconds_of("score", "--help"),
            f"a finished job of {rows:,} rows": lambda _: seconds_of(*score(base / "manifest", base / "finished")),
        }
        for where in ("--local", "--ray"):
            first = partial(first_score, base / "photos", where)
            waits[f"first scored image, {where}"] = first
            for images in sizes:
                waits[f"{images:,} images, {where}"] = partial(whole_job, base / "photos", where, images)
        seconds: dict[str, list[float]] = {name: [] for name in waits}
        cpu_seconds: dict[str, list[float]] = {name: [] for name in waits}
        for turn in range(rounds):
            for number, (name, wait) in enumerate(waits.items()):
                before = cpu_s()
                seconds[name].append(wait(base / f"out-{turn}-{number}"))
                cpu_seconds[name].append(cpu_s() - before)
    print(f"{rounds} rounds in turn; seconds\n")
    print("|                                | median | smallest | largest | CPU, median |")
    print("| ------------------------------ | -----: | -------: | ------: | ----------: |")
    for name, times in seconds.items():
        cpu = median(cpu_seconds[name])
        print(f"| {name:30} | {median(times):6.2f} | {min(times):8.2f} | {max(times):7.2f} | {cpu:11.2f} |")
    return 0


def cpu_s() -> float:
    """Seconds of CPU of all processes that were started and have ended; waits for those of Ray."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def score(source: Path, out: Path) -> list[str]:
    """Arguments of a `score` command with the tiny checkpoint of the tests."""
    arguments = ["score", str(source), "--out", str(out), "--checkpoint", str(CHECKPOINT)]
    return [*arguments, "--protocol", ARTIMUSE.name, "--device", "cpu"]


def seconds_of(*arguments: str) -> float:
    """Wall time of one command."""
    start = time.perf_counter()
    subprocess.run(command(*arguments), capture_output=True, check=True)
    return time.perf_counter() - start


def whole_job(source: Path, where: str, images: int, out: Path) -> float:
    """Wall time of a whole command; where: `--local` or `--ray`."""
    return seconds_of(*score(source, out), "--limit", str(images), where)


def first_score(source: Path, where: str, out: Path) -> float:
    """Wall time from the start of a command about ten images to its first scored rows; waits for its end."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command(*score(source, out), "--limit", "10", where), stdout=said, stderr=said)
        while not (first := has_scores(out)) and process.poll() is None:
            time.sleep(0.02)
        seconds = time.perf_counter() - start
        if process.wait() or not first:
            said.seek(0)
            raise RuntimeError(said.read().decode()[-2000:])
    return seconds


def has_scores(out: Path) -> bool:
    """True if a unit is staged or a shard committed."""
    return any(out.glob("_runs/*/staging/*/*.parquet")) or any(out.glob("scores/*.parquet"))


def command(*arguments: str) -> list[str]:
    """The `artimuse` of this environment, or the module where it is not installed."""
    program = Path(sys.executable).with_name("artimuse")
    return [str(program), *arguments] if program.exists() else [sys.executable, "-m", "jobs", *arguments]


def fill_store(out: Path, manifest: Path) -> None:
    """Commit made-up scores for every row of a manifest, through the store's own plan and commit."""
    from artimuse_actor.checkpoint.names import open_checkpoint

    checkpoint = open_checkpoint(str(CHECKPOINT))
    fingerprint = Fingerprint(
        checkpoint.name, checkpoint.digest, ARTIMUSE.name, ARTIMUSE.digest, DecodeOptions().version
    )
    store = Store.for_run(str(out), fingerprint, ARTIMUSE, keep_distribution=False)
    store.declare()
    plan = PlanProgress.begin(store, open_manifest(str(manifest)), "bench").plan
    schema = staged_unit(store.schema, store.texts)
    made = {"status": "ok", "run_id": plan.plan_id, "scored_at": 0, "score": 50.0, "sha256": os.urandom(32).hex()}
    for shard in plan.shards:
        rows = pa.concat_tables([unit_rows_of(store.place, plan, shard.index, unit) for unit in range(shard.units)])
        columns = [
            rows[field.name]
            if field.name in rows.column_names
            else pa.array([made.get(field.name)] * len(rows), field.type)
            for field in schema
        ]
        table = pa.table(columns, schema=schema)
        for unit in range(shard.units):
            part = table.slice(unit * plan.unit_rows, plan.unit_rows)
            store.place.write(staged_path(plan.plan_id, shard.index, unit), parquet_bytes(part))
        PlanProgress(store, plan).commit(shard)
    PlanProgress(store, plan).discard_work()


if __name__ == "__main__":
    sys.exit(main())
