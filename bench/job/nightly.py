"""A night on a large library where nothing is new: no Ray, little time, little memory.

    python bench/job/nightly.py [--rows 1000000] [--rounds 3]

The store is filled through the real plan and commit with made-up scores. A night is the whole `artimuse score` command.
The manifest of a night is another file than that of the last one, so every row of it is read and compared.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started

from bench.job.startup import command, fill_store, score
from bench.measure.machine import machine_line
from bench.measure.memory import MIB, run_measured
from bench.tables.plan import write_manifest

GOAL_S: Final = 10
GOAL_MIB: Final = 1024


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the library (default 1,000,000)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)

    print(machine_line("pyarrow"))
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        base = Path(folder)
        write_manifest(base / "manifest", options.rows)
        fill_store(base / "out", base / "manifest")
        shutil.copytree(base / "manifest", base / "other")
        nights = {"the same manifest": ["manifest"], "another manifest of the same rows": ["other", "manifest"]}
        print(f"{options.rows:,} rows; {options.rounds} rounds\n")
        print("| night                             | seconds (median) | largest | memory, MiB | goal             |")
        print("| --------------------------------- | ---------------: | ------: | ----------: | ---------------- |")
        for name, manifests in nights.items():
            sources = [base / manifests[turn % len(manifests)] for turn in range(options.rounds)]
            runs = [run_measured(command(*score(source, base / "out")), os.environ) for source in sources]
            if not all("Nothing to do" in run.output for run in runs):
                raise RuntimeError(runs[0].output)
            seconds = [run.seconds for run in runs]
            print(
                f"| {name:33} | {median(seconds):16.2f} | {max(seconds):7.2f} "
                f"| {max(run.peak.private for run in runs) / MIB:11,.0f} | {GOAL_S} s, {GOAL_MIB:,} MiB  |"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
