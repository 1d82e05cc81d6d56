"""A run may die, or lose its lock, before any of its writes: every one of them is tried, for every operation.

    python tests/store/test_crashes.py

prints how many there were.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `support`, if this is started by hand

import pytest
from support.faulty_places import BUCKETS
from support.interruptions import (
    SCENARIOS,
    Snapshot,
    begin,
    crash_compaction,
    crash_everywhere,
    suspend_compaction,
    suspend_everywhere,
)


@pytest.fixture(params=["s3", "disk"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{tmp_path.name}" if request.param == "s3" else str(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_run_that_dies_before_any_write_is_finished_by_the_next(root: str, scenario: str, tmp_path: Path) -> None:
    snapshot, prune = begin(root, scenario, tmp_path / "before")
    # What is written, and in which order, does not depend on the place: on a disk every third write is enough.
    assert crash_everywhere(snapshot, prune=prune, every=1 if snapshot.in_memory else 3) > 2


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_run_that_wakes_after_another_took_its_lock_over_changes_no_table(scenario: str, tmp_path: Path) -> None:
    """When it was suspended, the checks of its lock were behind it; on S3 that can be."""
    snapshot, prune = begin(f"memory://{tmp_path.name}", scenario, tmp_path / "before")
    assert suspend_everywhere(snapshot, prune=prune) > 2


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["replace", "retry"])
def test_a_compaction_that_dies_or_is_overtaken_before_any_write_loses_nothing(
    root: str, scenario: str, tmp_path: Path
) -> None:
    snapshot, _ = begin(root, scenario, tmp_path / "before")
    assert crash_compaction(snapshot) > 3
    assert not snapshot.in_memory or suspend_compaction(snapshot) > 3


def main() -> None:
    """Try every write of every operation, and print how many there were."""
    print("| operation | killed, S3 | killed, disk | suspended, S3 | reads of the tables |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for scenario in (*SCENARIOS, "compact"):
        crash: Callable[[Snapshot], int] = crash_compaction
        suspend: Callable[[Snapshot], int] = suspend_compaction
        if scenario != "compact":
            prune = SCENARIOS[scenario][1]
            crash, suspend = partial(crash_everywhere, prune=prune), partial(suspend_everywhere, prune=prune)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            counts, reads = [], 0
            for root, tried in (("memory://k", crash), (f"{folder}/out", crash), ("memory://s", suspend)):
                snapshot, _ = begin(root, "replace" if scenario == "compact" else scenario, Path(folder) / "before")
                counts.append(tried(snapshot))
                reads += snapshot.trial.reads
                BUCKETS.clear()
        print(f"| {scenario} | {' | '.join(map(str, counts))} | {reads:,} |", flush=True)


if __name__ == "__main__":
    main()
