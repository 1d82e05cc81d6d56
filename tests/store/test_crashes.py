"""A run may die, or lose its lock, before any of its writes: every one of them is tried, for every operation.

The next run of the same command must finish, and the one after it find nothing to do; a reader looks after each write.

    python tests/store/test_crashes.py
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `support`, if this is started by hand

import pytest
from support.faulty_places import BUCKETS, Killed
from support.trial import AWAY, CORRUPT, Photo, Trial

from artimuse_actor.errors import StoreLocked

Run = Callable[[Trial], object]


def _photos(trial: Trial, *names: str) -> None:
    for name in names:
        trial.library.put(name, name.encode())


def _new(trial: Trial) -> None:
    _photos(trial, *"abcdef")


def _new_with_texts(trial: Trial) -> None:
    trial.texts, trial.parts = True, True
    _new(trial)


def _scored(trial: Trial) -> None:
    _photos(trial, *"abcdef")
    trial.library.put("c", b"a")  # the same bytes as another
    trial.run()


def _scored_with_texts(trial: Trial) -> None:
    trial.texts = True
    _scored(trial)


def _changed(trial: Trial) -> None:
    for name in "bf":
        trial.library.put(name, name.encode() * 2)
    trial.library.put("d", CORRUPT)
    _photos(trial, *"xy")


def _replacing(trial: Trial) -> None:
    _scored_with_texts(trial)
    _changed(trial)


def _away(trial: Trial) -> None:
    _photos(trial, *"abcdef")
    for name in "be":
        photo = trial.library.photos[name]
        trial.library.photos[name] = Photo(AWAY + photo.data, photo.version)
    trial.run()
    for name in "be":
        photo = trial.library.photos[name]
        trial.library.photos[name] = Photo(photo.data.removeprefix(AWAY), photo.version)


def _texts_later(trial: Trial) -> None:
    _scored(trial)
    trial.library.put("b", b"bb")
    trial.texts = True


def _half_done(trial: Trial) -> None:
    """A run died in the middle, and now the manifest is another one: its plan is retired."""
    _scored_with_texts(trial)
    _changed(trial)
    trial.faults.arm(18)
    with pytest.raises(Killed):
        trial.run()
    trial.faults.arm(None)
    trial.library.put("b", b"bbb")
    del trial.library.photos["x"]
    _photos(trial, "w")


def _pruned(trial: Trial) -> None:
    _scored_with_texts(trial)
    for name in "abcde":
        del trial.library.photos[name]
    _photos(trial, "x")


def _damaged(trial: Trial) -> None:
    """Files of the tables are cut short."""
    _scored_with_texts(trial)
    scores, texts = (trial.place.files(table) for table in ("scores", "texts"))
    for path in (scores[0].path, texts[-1].path):
        data = trial.place.read(path)
        trial.place.write(path, data[: len(data) // 2])


SCENARIOS: dict[str, tuple[Run, bool]] = {
    "score": (_new, False),
    "score with texts": (_new_with_texts, False),
    "replace": (_replacing, False),
    "retry": (_away, False),
    "texts later": (_texts_later, False),
    "retire": (_half_done, False),
    "prune": (_pruned, True),
    "heal": (_damaged, False),
}


class Snapshot:
    """A trial at one moment, to begin from again and again."""

    def __init__(self, trial: Trial, folder: Path) -> None:
        self.trial, self.folder = trial, folder
        self.library, self.bucket = copy.deepcopy(trial.library), BUCKETS[trial.root]
        self.files = dict(self.bucket.files)
        if not self.in_memory:
            shutil.copytree(trial.root, folder, dirs_exist_ok=True)

    @property
    def in_memory(self) -> bool:
        return self.trial.root.startswith("memory://")

    def restore(self) -> Trial:
        self.trial.library = copy.deepcopy(self.library)
        self.bucket.files = dict(self.files)
        if not self.in_memory:
            shutil.rmtree(self.trial.root)
            if self.folder.exists():
                shutil.copytree(self.folder, self.trial.root)
        return self.trial


@pytest.fixture(params=["s3", "disk"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{tmp_path.name}" if request.param == "s3" else str(tmp_path / "out")


def _begin(root: str, scenario: str, folder: Path) -> tuple[Snapshot, bool]:
    before, prune = SCENARIOS[scenario]
    trial = Trial(root)
    Path(root).mkdir(exist_ok=True) if root.startswith("/") else None
    before(trial)
    return Snapshot(trial, folder), prune


def _finish(trial: Trial, *, prune: bool) -> None:
    """Run the command again: it finishes, and then there is nothing to do."""
    manifest, before = trial.library.manifest(), trial.look()
    trial.run(manifest, prune=prune)
    trial.check_finished(manifest, before, prune=prune, strict=False)
    changes = trial.faults.changes
    assert trial.run(manifest, prune=prune).was_finished
    assert trial.faults.changes - changes <= 4, "a run with nothing to do writes its own record and its lock"


def crash_everywhere(snapshot: Snapshot, *, prune: bool, every: int = 1) -> int:
    """Die before each write, finish each time; returns how often."""
    for number in itertools.count(1, every):
        trial = snapshot.restore()
        trial.faults.arm(number)
        try:
            trial.run(prune=prune)
        except Killed:
            trial.faults.arm(None)
            _finish(trial, prune=prune)
        else:
            return number // every
    raise AssertionError


def suspend_everywhere(snapshot: Snapshot, *, prune: bool) -> int:
    """Wake after another run, right before each write that others see; returns how often."""
    for number in itertools.count(1):
        trial = snapshot.restore()
        found: list[dict[str, dict[str, Any]]] = []
        trial.faults.arm(number, partial(_other_run, trial, found, another=number % 2 == 0), work=False)
        try:
            trial.run(prune=prune)
        except StoreLocked:
            assert found
        if not found:
            return number - 1
        assert trial.look() == found[0]
        trial.faults.arm(None)
        _finish(trial, prune=prune)
    raise AssertionError


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_run_that_dies_before_any_write_is_finished_by_the_next(root: str, scenario: str, tmp_path: Path) -> None:
    snapshot, prune = _begin(root, scenario, tmp_path / "before")
    # What is written, and in which order, does not depend on the place: on a disk every third write is enough.
    assert crash_everywhere(snapshot, prune=prune, every=1 if snapshot.in_memory else 3) > 4


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_run_that_wakes_after_another_took_its_lock_over_changes_no_table(scenario: str, tmp_path: Path) -> None:
    """When it was suspended, the checks of its lock were behind it; on S3 that can be."""
    snapshot, prune = _begin(f"memory://{tmp_path.name}", scenario, tmp_path / "before")
    assert suspend_everywhere(snapshot, prune=prune) > 2


def _other_run(trial: Trial, found: list[dict[str, dict[str, Any]]], *, another: bool) -> None:
    """A whole run of the same manifest or of another one; notes the rows at its end."""
    if another:
        trial.library.put("b", b"by the other run")
        trial.library.put("z", b"z")
    manifest, before = trial.library.manifest(), trial.look()
    trial.run(manifest)
    trial.check_finished(manifest, before, prune=False, strict=False)
    found.append(trial.look())


def main() -> None:
    """Try every write of every operation, and print how many there were."""
    print("| operation | killed, S3 | killed, disk | suspended, S3 | reads of the tables |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for scenario in SCENARIOS:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            counts, reads = [], 0
            for root, fault in (("memory://k", "killed"), (f"{folder}/out", "killed"), ("memory://s", "suspended")):
                snapshot, prune = _begin(root, scenario, Path(folder) / "before")
                tried = crash_everywhere if fault == "killed" else suspend_everywhere
                counts.append(tried(snapshot, prune=prune))
                reads += snapshot.trial.reads
                BUCKETS.clear()
        print(f"| {scenario} | {' | '.join(map(str, counts))} | {reads:,} |", flush=True)


if __name__ == "__main__":
    main()
