"""Interruptions of each operation on a store: a run dies, or is suspended, before each of its writes in turn.

The next run of the same command must finish, and the one after it find nothing to do; a reader looks after each write.
"""

from __future__ import annotations

import copy
import itertools
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from support.faulty_places import BUCKETS, Killed
from support.trial import AWAY, CORRUPT, Photo, Trial

from artimuse_actor.errors import StoreError, StoreLocked
from jobs.store.plan_progress import PlanProgress

Run = Callable[[Trial], object]
_Tables = tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]


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


def _half_damaged(trial: Trial) -> None:
    """A run died in the middle, and a file that it had written is cut short."""
    _photos(trial, *"abcdefgh")
    trial.texts = True
    trial.faults.arm(14)
    with pytest.raises(Killed):
        trial.run()
    trial.faults.arm(None)
    for table in ("scores", "texts"):
        path = trial.place.files(table)[0].path
        trial.place.write(path, trial.place.read(path)[:1000])


def _without_scores(trial: Trial) -> None:
    """A run died between the texts and the scores of a shard."""
    _photos(trial, *"abcdef")
    trial.texts = True
    for number in itertools.count(1):
        trial.faults.arm(number)
        with pytest.raises(Killed):
            trial.run()
        if len(trial.place.files("texts")) > len(trial.place.files("scores")):
            return trial.faults.arm(None)


def _texts_ahead(trial: Trial) -> None:
    """A run died between the texts and the scores of a shard that it had committed in part, and its plan is lost."""
    _photos(trial, *"abcd")
    trial.texts, trial.parts = True, True
    trial.faults.arm(6, work=False)  # after plan, description, a part's two files, and the shard's texts
    with pytest.raises(Killed):
        trial.run()
    trial.faults.arm(None)
    assert len(trial.rows("texts")) > len(trial.rows("scores")) > 0
    trial.place.write("_plan.json", b"{")


def _come_back(trial: Trial) -> None:
    """A file of the tables was away, a run that made its rows again died, and the file is there again."""
    _scored(trial)
    path = trial.place.files("scores")[0].path
    data = trial.place.read(path)
    trial.place.delete(path)
    _die_when_staged(trial)
    trial.place.write(path, data)


def _back_without_texts(trial: Trial) -> None:
    """A scores file was away, a run that had dropped the texts beside it died, and the file is there again."""
    _scored_with_texts(trial)
    path = trial.place.files("scores")[0].path
    data = trial.place.read(path)
    trial.place.delete(path)
    described = len(trial.rows("texts"))
    for number in itertools.count(1):
        trial.faults.arm(number, work=False)
        with pytest.raises(Killed):
            trial.run()
        if len(trial.rows("texts")) < described:
            break
    trial.faults.arm(None)
    trial.place.write(path, data)


def _texts_gone(trial: Trial) -> None:
    """A run died before it committed changed pictures, and the texts of the pictures beside them are gone."""
    _scored_with_texts(trial)
    trial.library.put("b", b"bb")
    _die_when_staged(trial)
    trial.place.delete(trial.place.files("texts")[0].path)


def _texts_gone_at_the_end(trial: Trial) -> None:
    """A run died when all was in the tables, before it had said so, and then a texts file is gone."""
    _photos(trial, *"abcd")
    trial.texts = trial.parts = True
    with pytest.raises(Killed), patch.object(PlanProgress, "discard_work", side_effect=Killed):
        trial.run()
    trial.place.delete(trial.place.files("texts")[0].path)


def _die_when_staged(trial: Trial) -> None:
    """A run dies when it has staged something."""
    for number in itertools.count(1):
        trial.faults.arm(number)
        with pytest.raises(Killed):
            trial.run()
        if any("/staging/" in file.path for file in trial.place.files("_runs")):
            return trial.faults.arm(None)


def _moved(trial: Trial) -> None:
    """The library lies elsewhere now, and some of it has changed."""
    _scored_with_texts(trial)
    trial.library.root, trial.moved = "/elsewhere", True
    _changed(trial)


SCENARIOS: dict[str, tuple[Run, bool]] = {
    "score": (_new, False),
    "score with texts": (_new_with_texts, False),
    "replace": (_replacing, False),
    "retry": (_away, False),
    "texts later": (_texts_later, False),
    "retire": (_half_done, False),
    "prune": (_pruned, True),
    "heal": (_damaged, False),
    "heal in the middle": (_half_damaged, False),
    "texts without scores": (_without_scores, False),
    "texts ahead of scores": (_texts_ahead, False),
    "texts gone in the middle": (_texts_gone, False),
    "texts gone at the end": (_texts_gone_at_the_end, False),
    "a file comes back": (_come_back, False),
    "a file comes back without texts": (_back_without_texts, False),
    "moved": (_moved, False),
}


class Snapshot:
    """A trial at one moment, to begin from again and again."""

    def __init__(self, trial: Trial, folder: Path) -> None:
        self.trial, self.folder, self.root = trial, folder, trial.root
        self.library, self.bucket = copy.deepcopy(trial.library), BUCKETS[trial.root]
        self.files = dict(self.bucket.files)
        if not self.in_memory:
            shutil.copytree(trial.root, folder, dirs_exist_ok=True)

    @property
    def in_memory(self) -> bool:
        return self.trial.root.startswith("memory://")

    def restore(self) -> Trial:
        self.trial.root, self.trial.library = self.root, copy.deepcopy(self.library)
        self.bucket.files = dict(self.files)
        if not self.in_memory:
            shutil.rmtree(self.trial.root)
            if self.folder.exists():
                shutil.copytree(self.folder, self.trial.root)
        return self.trial


def begin(root: str, scenario: str, folder: Path) -> tuple[Snapshot, bool]:
    before, prune = SCENARIOS[scenario]
    trial = Trial(root)
    Path(root).mkdir(exist_ok=True) if root.startswith("/") else None
    before(trial)
    return Snapshot(trial, folder), prune


def _tables(trial: Trial) -> _Tables:
    """The rows of both tables, by id."""
    return trial.look(), {row["image_id"]: row for row in trial.rows("texts")}


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
        found: list[_Tables] = []
        trial.faults.arm(number, partial(_other_run, trial, found, another=number % 2 == 0), work=False)
        try:
            trial.run(prune=prune)
        except StoreLocked:
            assert found
        if not found:
            return number - 1
        assert _tables(trial) == found[0]
        trial.faults.arm(None)
        _finish(trial, prune=prune)
    raise AssertionError


def _other_run(trial: Trial, found: list[_Tables], *, another: bool) -> None:
    """A whole run of the same manifest or of another one; notes the rows at its end."""
    if another:
        trial.library.put("b", b"by the other run")
        trial.library.put("z", b"z")
    manifest, before = trial.library.manifest(), trial.look()
    trial.run(manifest)
    trial.check_finished(manifest, before, prune=False, strict=False)
    found.append(_tables(trial))


def crash_compaction(snapshot: Snapshot, *, every: int = 1) -> int:
    """Die before each write of a compaction: the store is as it was, another attempt succeeds; returns how often."""
    for number in itertools.count(1, every):
        trial, new = snapshot.restore(), _new_store(snapshot)
        before = trial.look()
        BUCKETS[new].faults.arm(number)
        try:
            trial.compact(new)
        except Killed:
            BUCKETS[new].faults.arm(None)
            assert trial.look() == before
            _compact_and_finish(trial, new)
        else:
            trial.root = snapshot.root
            return number // every
    raise AssertionError


def suspend_compaction(snapshot: Snapshot) -> int:
    """Wake after a run on the old store, or after another compaction, right before each write; returns how often."""
    for number in itertools.count(1):
        trial, new = snapshot.restore(), _new_store(snapshot)
        found: list[_Tables] = []

        def other(trial: Trial = trial, new: str = new, number: int = number, found: list[_Tables] = found) -> None:
            if number % 2:
                _other_run(trial, found, another=True)
                return
            trial.compact(new, shard_rows=8)
            found.append(_tables(trial))
            trial.root = snapshot.root

        BUCKETS[new].faults.arm(number, other)
        try:
            trial.compact(new)
        except (StoreLocked, StoreError):
            assert found
        if not found:
            trial.root = snapshot.root
            return number - 1
        assert trial.root == snapshot.root, "it was told that it is done, although another run was at work"
        BUCKETS[new].faults.arm(None)
        if number % 2 == 0:
            trial.root = new
        assert _tables(trial) == found[0]
        trial.root = snapshot.root
        if number % 2 == 0:
            continue
        _compact_and_finish(trial, f"{new}-2")
    raise AssertionError


def _new_store(snapshot: Snapshot) -> str:
    """The root of a compacted store, where there is nothing yet."""
    for root in (f"{snapshot.root}-new", f"{snapshot.root}-new-2"):
        BUCKETS[root].files.clear()  # its versions go on: readers remember them
        shutil.rmtree(root, ignore_errors=True)
    return f"{snapshot.root}-new"


def _compact_and_finish(trial: Trial, new: str) -> None:
    """Compact again: the rows are the same, and for the next run there is nothing to do."""
    old, before = trial.root, trial.look()
    trial.compact(new)
    assert trial.look() == before
    _finish(trial, prune=False)
    trial.root = old
