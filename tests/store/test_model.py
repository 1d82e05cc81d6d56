"""Random libraries, commands and faults against a model of what the tables must hold.

    python tests/store/test_model.py 100000 [first seed] [--processes 4]

prints what they had in them.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import multiprocessing
import os
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `support`, if this is started by hand

import pytest
from support.histories import check

SEQUENCES = 300


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(10))
def test_no_history_loses_doubles_or_mixes_up_a_row(part: int, tmp_path: Path) -> None:
    for seed in range(part * SEQUENCES // 10, (part + 1) * SEQUENCES // 10):
        check(seed, str(tmp_path))


def _checked(seeds: range) -> tuple[Counter[str], list[str]]:
    """What these sequences had in them, and those that failed."""
    gc.freeze()
    gc.set_threshold(100_000)  # a tenth of the time
    counts, failed = Counter[str](), []
    # A file system in memory: on some disks it takes milliseconds to remove a folder.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder, contextlib.redirect_stderr(io.StringIO()):
        for seed in seeds:
            try:
                counts += check(seed, folder)
            except AssertionError as error:
                failed.append(str(error))
    return counts, failed


def main() -> int:
    """Play sequences and print what they had in them, after each 500; 1 if any has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequences", type=int, help="how many")
    parser.add_argument("first", type=int, nargs="?", default=0, help="seed of the first one (default 0)")
    parser.add_argument("--processes", type=int, default=1, help="that play them (default 1)")
    asked = parser.parse_args()
    seeds = range(asked.first, asked.first + asked.sequences)
    parts = [seeds[start : start + 100] for start in range(0, len(seeds), 100)]
    counts, played, bad = Counter[str](), 0, 0
    with ProcessPoolExecutor(asked.processes, multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_checked, part) for part in parts]):
            more, failed = done.result()
            counts, played, bad = counts + more, played + 100, bad + len(failed)
            for failure in failed:
                print(failure, flush=True)
            if played % 500 == 0 or played >= len(seeds):
                had = ", ".join(f"{count:,} {name}" for name, count in counts.most_common())
                print(f"{min(played, len(seeds)):,} sequences: {had}; {bad:,} lost or doubled a row", flush=True)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
