"""Evaluation: how long and how much memory all metrics and their intervals take, by the number of pairs.

    python bench/tables/evaluate.py [--small]

Each measurement is a process of its own. Intervals are bootstrapped (1,000 resamples), above 100,000 pairs from
subsamples. "Difference" compares two sets of scores.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started

import numpy as np

from bench.measure.machine import machine_line
from jobs.evaluate.metrics.agreement import measure_agreement, measure_differences

PAIRS: Final = (10_000, 20_000, 100_000, 1_000_000, 10_000_000)
WORKS: Final = ("agreement", "difference")
GOALS: Final = "10 s for 20,000 pairs, 60 s for 100,000, 60 s and 4,000 MB for 10,000,000"


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="ten thousand pairs")
    parser.add_argument("--once", nargs=2, metavar=("WORK", "PAIRS"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.once:
        measure_once(options.once[0], int(options.once[1]))
        return 0

    print(machine_line("numpy", "scipy"))
    print("scores in points with three decimals, truths of one decimal, correlation 0.8\n")
    print("| work       |      pairs | wall, s | processor, s | peak memory, MB |")
    print("| ---------- | ---------: | ------: | -----------: | --------------: |")
    for work in WORKS:
        for pairs in PAIRS[:1] if options.small else PAIRS:
            command = [sys.executable, __file__, "--once", work, str(pairs)]
            wall, processor, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            print(
                f"| {work:<10} | {pairs:10,} | {float(wall):7.1f} | {float(processor):12.1f} "
                f"| {int(peak) / 1e6:15,.0f} |",
                flush=True,
            )
    print(f"\ngoals for agreement: {GOALS}")
    return 0


def measure_once(work: str, pairs: int) -> None:
    """In this process; prints wall and processor seconds and peak bytes, the pairs themselves among them."""
    scores, noise = np.random.default_rng(0).normal(size=(2, pairs))
    truths = np.round(5.4 + 0.7 * (0.8 * scores + 0.6 * noise), 1)
    scores = np.round(55 + 12 * scores, 3)
    wall, processor = time.perf_counter(), time.process_time()
    if work == "agreement":
        measure_agreement(scores, truths, truth_threshold=5.0)
    else:
        measure_differences([scores, scores + noise], truths)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(time.perf_counter() - wall, time.process_time() - processor, peak)


if __name__ == "__main__":
    sys.exit(main())
