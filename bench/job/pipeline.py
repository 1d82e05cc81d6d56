"""The whole job against the bare model, with a model that only sleeps: how much of a GPU's time the job leaves unused.

    python bench/job/pipeline.py [--small]

Runs `artimuse score` on JPEG files as it is, from plan to commit; the model alone is replaced, by one that sleeps 15 ms
for each image. It is busy while it sleeps; the steady state lasts from its first call to the end of its last.
Memory is that of all processes of the run, Ray's own included.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started

import pyarrow.dataset as ds

from bench.job.photos import make_photos
from bench.job.sleeping import LOG_VARIABLE, PACE_VARIABLE
from bench.measure.machine import ROOT, machine_line
from bench.measure.memory import MIB, Finished, run_measured

CHECKPOINT: Final = ROOT / "artimuse_actor" / "verify" / "golden_set" / "artimuse" / "checkpoint"
GOAL_BUSY: Final = 0.95


@dataclass(frozen=True)
class Calls:
    """Statistics of the model's calls.

    Attributes:
        count: its calls.
        images: of all calls.
        busy: share of the steady state in which it slept.
        images_per_s: in the steady state.
        longest_gap_s: between two calls.
        all_busy: share of the time of all models in which they slept, once the last had started, until the first ended.
    """

    count: int
    images: int
    busy: float
    images_per_s: float
    longest_gap_s: float
    all_busy: float


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a few hundred images, in under a minute")
    parser.add_argument("--images", type=int, nargs="+", help="of each run (default 1000 5000 20000)")
    parser.add_argument("--unit-size", type=int, default=200, help="in all runs (default 200, as in a large job)")
    parser.add_argument("--pace", type=float, default=0.015, help="seconds for each image (default 0.015)")
    options = parser.parse_args(arguments)
    counts = options.images or ([200, 400] if options.small else [1_000, 5_000, 20_000])
    unit_size = min(options.unit_size, 20) if options.small else options.unit_size

    print(machine_line("ray", "pyarrow", "pillow"))
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        made = make_photos(Path(folder, "photos"), max(counts))
        print(f"{made}; units of {unit_size}; {options.pace * 1000:g} ms an image, {1 / options.pace:.1f} images/s\n")
        print(
            "| images | model busy | images/s | longest gap | start | driver | all processes | object store | spilled |"
        )
        print(
            "| -----: | ---------: | -------: | ----------: | ----: | -----: | ------------: | -----------: | ------: |"
        )
        for count in counts:
            finished, calls = run_job(Path(folder), count, options.pace, "--unit-size", str(unit_size))
            peak = finished.peak
            memory = (peak.root, peak.private, peak.shared, peak.spilled)
            cells = " | ".join(f"{size / MIB:,.0f} MiB" for size in memory)
            start = finished.seconds - calls.images / calls.images_per_s
            print(
                f"| {count:6,} | {calls.busy:10.1%} | {calls.images_per_s:8.1f} | {calls.longest_gap_s:9.2f} s "
                f"| {start:4.1f} s | {cells} |",
                flush=True,
            )
    print(f"\ngoal: busy {GOAL_BUSY:.0%}, memory flat; start is all of the run outside the steady state")
    return 0


def run_job(folder: Path, images: int, pace: float, *options: str) -> tuple[Finished, Calls]:
    """One run of `artimuse score`, with one sleeping model, over the first so many files of `folder/photos`."""
    run = Path(tempfile.mkdtemp(prefix="run", dir=folder))
    command = [sys.executable, str(ROOT / "bench" / "job" / "sleeping_job.py"), "score", str(folder / "photos")]
    command += ["--out", str(run / "out"), "--checkpoint", str(CHECKPOINT), "--protocol", "artimuse"]
    command += ["--limit", str(images), "--device", "cpu", "--actors", "1", *options]
    variables = {LOG_VARIABLE: str(run / "log"), PACE_VARIABLE: str(pace), "RAY_TMPDIR": str(run)}
    finished = run_measured(command, {**os.environ, **variables}, spill_folder=run)
    calls = read_calls(run / "log")
    rows = ds.dataset(run / "out" / "scores").count_rows()
    if not calls.images == rows == images:
        raise RuntimeError(f"The model saw {calls.images} images and the table has {rows} rows, not {images}.")
    return finished, calls


def read_calls(log: Path) -> Calls:
    """Statistics of the log of the `SleepingModel`s."""
    calls = sorted(tuple(map(float, line.split())) for line in log.read_text().splitlines())
    span = calls[-1][1] - calls[0][0]
    images = int(sum(count for _, _, count, _ in calls))
    gaps = [after[0] - before[1] for before, after in pairwise(calls)]
    busy = sum(end - start for start, end, *_ in calls) / span
    spans: dict[float, tuple[float, float]] = {}  # of each model's process
    for start, end, _, process in calls:
        spans[process] = (spans.get(process, (start,))[0], end)
    begin, stop = max(start for start, _ in spans.values()), min(end for _, end in spans.values())
    slept = sum(max(0.0, min(end, stop) - max(start, begin)) for start, end, *_ in calls)
    all_busy = slept / (len(spans) * (stop - begin)) if stop > begin else 0.0
    return Calls(len(calls), images, busy, images / span, max(gaps, default=0.0), all_busy)


if __name__ == "__main__":
    sys.exit(main())
