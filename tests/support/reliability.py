"""Injects faults into real runs and counts rows: the table of `docs/reliability.md`.

    python tests/support/reliability.py [--kills 20] [--seed 0]

Takes about ten minutes. Not collected by pytest: `test_faults.py` has each fault once. Fails if a row is lost or
doubled at any moment.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `support`, wherever this is started

import pyarrow.dataset as ds
from support.golden import golden_checkpoint
from support.photo_library import make_photos
from support.score_job import descendants

PICTURES = 240
SHARD_ROWS = 24
UNIT_ROWS = 4
DRIVER = (
    "import sys; from jobs.score.run import score; from jobs.score.settings import *\n"
    f"score(ScoreSettings(*sys.argv[1:4], unit_size={UNIT_ROWS}, shard_rows={SHARD_ROWS}, batch_size=1, local=False))"
)


@dataclass
class Count:
    """The outcome of one kind of fault.

    Attributes:
        fault: its name.
        injected: how often.
        rows_in: rows of the manifest.
        rows_out: rows of the table in the end.
        lost: ids that are not in the table.
        doubled: ids that were in it twice, at any moment that a reader looked.
        looked: how often a reader looked.
    """

    fault: str
    injected: int = 0
    rows_in: int = 0
    rows_out: int = 0
    lost: int = 0
    doubled: int = 0
    looked: int = 0


class Trial:
    """One store, one kind of fault."""

    def __init__(self, fault: str, folder: Path) -> None:
        self.count = Count(fault)
        self.photos, self.out = folder / "photos", folder / "out"
        self.names = make_photos(self.photos, PICTURES)
        self.process: subprocess.Popen[bytes] | None = None
        self.damaged: tuple[Path, bytes] | None = None
        self.seen: set[Path] = set()

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", DRIVER, self.photos, golden_checkpoint("artimuse"), self.out]
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self.process

    def wait(self, until: Callable[[], bool]) -> None:
        """Look as a plain reader does until it is time, or the run has ended."""
        assert self.process is not None
        while self.process.poll() is None and not until():
            self.look()
            time.sleep(0.02)

    def look(self) -> list[str]:
        if not (self.out / "scores").exists() or self._is_damaged():
            return []
        table = ds.dataset(self.out / "scores").to_table()
        ids = table["image_id"].to_pylist() if len(table) else []  # an empty folder has no columns
        self.count.looked += 1
        self.count.doubled += sum(number - 1 for number in Counter(ids).values())
        return list(ids)

    def damage(self, path: Path, chance: random.Random) -> None:
        """Delete a file, or cut it short, which readers cannot read until the next run has found it."""
        if chance.random() < 0.5:
            path.unlink()
        else:
            data = path.read_bytes()
            self.damaged = path, data[: chance.randrange(len(data))]
            path.write_bytes(self.damaged[1])

    def _is_damaged(self) -> bool:
        if self.damaged is None:
            return False
        path, cut = self.damaged
        return path.exists() and path.read_bytes() == cut

    def finish(self) -> Count:
        """Run to the end, and count."""
        for _ in range(3):
            if self.start().wait() == 0:
                break
        ids = self.look()
        self.count.rows_in, self.count.rows_out = len(self.names), len(ids)
        self.count.lost = len(set(self.names) - set(ids))
        return self.count

    def kill_all(self, number: signal.Signals = signal.SIGKILL) -> None:
        assert self.process is not None
        family = [self.process.pid, *descendants(self.process.pid)]
        self.process.send_signal(number)
        self.process.wait()
        for pid in family[1:]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def staged(self) -> list[Path]:
        return list((self.out / "_runs").glob("*/staging/*/*.parquet"))

    def units(self) -> int:
        """Units that were staged at any time."""
        self.seen.update(self.staged())
        return len(self.seen)


def driver_killed(trial: Trial, times: int, chance: random.Random) -> None:
    """At a random second of its start, or after a random number of units more, and a moment."""
    while trial.count.injected < times:
        before = trial.units()
        trial.start()
        if trial.count.injected % 4 == 0:
            end = time.monotonic() + chance.uniform(0.5, 10.0)
            trial.wait(partial(_is_later, end))
        else:
            trial.wait(partial(_has_units, trial, before + chance.randint(1, 10)))
            trial.wait(partial(_is_later, time.monotonic() + chance.uniform(0, 0.3)))
        assert trial.process is not None
        if trial.process.poll() is None:
            trial.kill_all()
            trial.count.injected += 1
        else:  # it has finished: take a part away, so that there is work
            assert trial.process.returncode == 0, "a run that nobody has killed failed"
            for path in sorted((trial.out / "scores").iterdir())[::2]:
                path.unlink()


def driver_asked_to_end(trial: Trial, times: int, chance: random.Random) -> None:
    for turn in range(times):
        before = trial.units()
        trial.start()
        more = chance.randint(1, 4)
        trial.wait(partial(_has_units, trial, before + more))
        assert trial.process is not None
        if trial.process.poll() is None:
            trial.kill_all(signal.SIGTERM if turn % 2 else signal.SIGINT)
            trial.count.injected += 1


def process_killed(step: str, first: int, then: int) -> Callable[[Trial, int, random.Random], None]:
    def inject(trial: Trial, times: int, chance: random.Random) -> None:
        trial.start()
        assert trial.process is not None
        for turn in range(times):
            trial.wait(partial(_has_units, trial, first + then * turn))
            found: list[int] = []
            trial.wait(partial(_find, trial, step, found))
            if found:
                os.kill(found[0], signal.SIGKILL)
                trial.count.injected += 1
        trial.wait(lambda: False)

    return inject


def _is_later(end_s: float) -> bool:
    return time.monotonic() > end_s


def _has_units(trial: Trial, units: int) -> bool:
    return trial.units() >= units


def _find(trial: Trial, step: str, found: list[int]) -> bool:
    found += _workers(trial, step)
    return bool(found)


def _workers(trial: Trial, step: str) -> list[int]:
    assert trial.process is not None
    found = []
    for pid in descendants(trial.process.pid):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::") and step.encode() in title:
            found.append(pid)
    return found


def file_damaged(pattern: str) -> Callable[[Trial, int, random.Random], None]:
    """Cut a file short, or delete it, after a run was killed half way."""

    def inject(trial: Trial, times: int, chance: random.Random) -> None:
        for turn in range(times):
            trial.start()
            trial.wait(partial(_is_half_way, trial, turn % 4))
            trial.kill_all()
            files = sorted(trial.out.glob(pattern))
            if not files:
                continue
            trial.damage(chance.choice(files), chance)
            trial.count.injected += 1

    return inject


def _is_half_way(trial: Trial, shards: int) -> bool:
    return len(list((trial.out / "scores").glob("*"))) > shards and bool(trial.staged())


def main(arguments: list[str] | None = None) -> int:
    """Inject everything, print the table; 1 if a row was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of the driver (default 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="faults whose name holds this")
    options = parser.parse_args(arguments)
    chance = random.Random(options.seed)
    faults: list[tuple[str, Callable[[Trial, int, random.Random], None], int]] = [
        ("driver and all its processes: `kill -9` at random moments", driver_killed, options.kills),
        ("driver: SIGTERM and SIGINT in turn", driver_asked_to_end, 4),
        ("a load process: `kill -9`", process_killed("UnitLoader", 0, 0), 3),
        ("an actor: `kill -9`", process_killed("ArtiMuseActor", 1, 4), 3),
        ("staged units cut short or deleted", file_damaged("_runs/*/staging/*/*.parquet"), 4),
        ("planned rows cut short or deleted", file_damaged("_runs/*/rows/*.parquet"), 3),
        ("scores files cut short or deleted", file_damaged("scores/*.parquet"), 4),
    ]
    print("| fault | injected | rows in | rows out | lost | doubled | reads of the table |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    bad = 0
    for name, inject, times in faults:
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            trial = Trial(name, Path(folder))
            inject(trial, times, chance)
            count = trial.finish()
        bad += count.lost + count.doubled
        print(
            f"| {count.fault} | {count.injected} | {count.rows_in} | {count.rows_out} | {count.lost} | {count.doubled} "
            f"| {count.looked:,} |",
            flush=True,
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
