"""Random histories of a store: libraries, commands and faults, against a model of what the tables must hold.

A sequence is its seed and its steps. One that fails is cut down to the steps that it takes, and both are printed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from support.faulty_places import BUCKETS, SERVERS, Killed, Seen
from support.trial import AWAY, CORRUPT, ROOT, Photo, Trial

from artimuse_actor.errors import ArtiMuseError, BrokenFile
from jobs.manifest.listed import ListedManifest
from jobs.plan.stored_rows import RetryErrors
from jobs.storage.parquet import parquet_from

STEPS = 3
NAMES = ("a", "b", "c", "d", "x/e", "x/f", "x/g", "x/h")
FOLDER = f"{ROOT}/x"
RETRIED = RetryErrors(("corrupt", "fetch_failed", "missing"), alone=True)
FAULTS = ("killed", "failed", "unanswered", "suspended", *SERVERS)


class Sequence:
    """One store and its history."""

    def __init__(self, root: str) -> None:
        self.trial = Trial(root)
        self.former: list[ListedManifest] = []
        self.is_clean = True  # the last run has ended
        self.is_damaged = False  # a file may be gone that names the others
        self.lost: dict[str, bytes] = {}  # scores files that were deleted
        self.counts: Counter[str] = Counter()
        for name in NAMES[2:6]:
            self.trial.library.put(name, name.encode())

    # Edits of the library.

    def add(self, chance: random.Random) -> None:
        name = chance.choice(NAMES)
        self.trial.library.put(name, chance.choice([f"{name}{chance.randrange(99)}".encode(), b"same", CORRUPT]))

    def touch(self, chance: random.Random) -> None:
        if name := self._some(chance):
            self.trial.library.put(name, self.trial.library.photos[name].data)

    def move(self, chance: random.Random) -> None:
        if name := self._some(chance):
            photo = self.trial.library.photos.pop(name)
            self.trial.library.put(chance.choice(NAMES), photo.data)

    def delete(self, chance: random.Random) -> None:
        if name := self._some(chance):
            del self.trial.library.photos[name]

    def away(self, chance: random.Random) -> None:
        """A file cannot be read, or can be again."""
        if name := self._some(chance):
            photo = self.trial.library.photos[name]
            data = photo.data.removeprefix(AWAY) if photo.data.startswith(AWAY) else AWAY + photo.data
            self.trial.library.photos[name] = Photo(data, photo.version)

    def swap(self, chance: random.Random) -> None:
        """Other bytes under the same version, as in a manifest whose versions say nothing of the files."""
        if name := self._some(chance):
            photo = self.trial.library.photos[name]
            self.trial.library.photos[name] = Photo(photo.data + b"!", photo.version)
            self.trial.library.swapped.add((name, photo.version))

    def damage(self, chance: random.Random) -> None:
        """A file of the store is cut short, or gone."""
        place = self.trial.place
        kind = chance.choice([("scores/",), ("texts/",), ("_runs/", "_plan.json")])
        files = [file.path for file in place.files("") if file.path.startswith(kind) and "run.json" not in file.path]
        if files:
            path = chance.choice(files)
            data = place.read(path)
            if chance.random() < 0.5:
                place.delete(path)
                self.lost |= {path: data} if path.startswith("scores/") else {}
            else:
                place.write(path, data[: chance.randrange(len(data) + 1)])
            self.is_clean, self.is_damaged = False, True

    def restore(self, chance: random.Random) -> None:
        """A deleted file of the store is there again, unless its rows are in the tables by now."""
        if self.lost:
            path = chance.choice(sorted(self.lost))
            data = self.lost.pop(path)
            try:
                ids = parquet_from(data, path)["image_id"].to_pylist()
            except BrokenFile:  # it was cut short before
                return
            is_made_again = path in [file.path for file in self.trial.place.files("scores")]
            if not is_made_again and self.trial.look().keys().isdisjoint(ids):
                self.trial.place.write(path, data)
                self.is_clean, self.is_damaged = False, True

    def _some(self, chance: random.Random) -> str | None:
        names = sorted(self.trial.library.photos)
        return chance.choice(names) if names else None

    # Commands.

    def score(self, chance: random.Random) -> None:
        self._score(chance, self.trial.library.manifest())

    def score_former(self, chance: random.Random) -> None:
        """A manifest of an earlier day is given again."""
        if self.former:
            self._score(chance, chance.choice(self.former))

    def score_some(self, chance: random.Random) -> None:
        """A part, in another order."""
        names = [name for name in sorted(self.trial.library.photos) if chance.random() < 0.7]
        chance.shuffle(names)
        self._score(chance, self.trial.library.manifest(names))

    def retry(self, chance: random.Random) -> None:
        """`--retry-errors`, which leaves new and changed pictures for later."""
        self._score(chance, self.trial.library.manifest(), retry=RETRIED)

    def prune(self, chance: random.Random) -> None:
        """At times a folder cannot be looked into."""
        self.delete(chance)
        unseen = (FOLDER,) if chance.random() < 0.3 else ()
        self._score(chance, self.trial.library.manifest(unseen=unseen), prune=True)

    def mend(self, chance: random.Random) -> None:
        """A file is damaged, and nothing else has changed."""
        self.damage(chance)
        self._score(chance, self.trial.library.manifest())

    def texts_later(self, chance: random.Random) -> None:
        self.trial.texts = True
        self._score(chance, self.trial.library.manifest())

    def compact(self, _: random.Random) -> None:
        if self.is_clean and self.trial.place.files("scores"):
            self.trial.compact(f"{self.trial.root}c")
            self.former.clear()
            self.lost.clear()

    def _score(
        self,
        chance: random.Random,
        manifest: ListedManifest,
        *,
        prune: bool = False,
        retry: RetryErrors = RetryErrors(),
    ) -> None:
        if not manifest.rows.num_rows:
            return
        self.former.append(manifest)
        self.trial.parts = chance.random() < 0.5
        fault = chance.choice([*("none",) * 3, *FAULTS])
        command = partial(self.trial.run, manifest, prune=prune, retry=retry)
        if fault != "none" and not self._faulty(chance, fault, command):
            return
        self.trial.faults.arm(None)
        before = self.trial.look()
        result = command()
        self.trial.check_finished(manifest, before, prune=prune, strict=self.is_clean, retry=retry)
        assert result.counts.rows == len(self.trial.look())
        self.is_clean, self.is_damaged = True, False
        self.counts["finished"] += 1

    def _faulty(self, chance: random.Random, fault: str, command: Callable[[], object]) -> bool:
        """One run with a fault; returns whether the same command is given again."""
        faults = self.trial.faults
        at = chance.randrange(1, chance.choice([12, 20, 40]))  # small runs have few changes
        if fault == "lagging" and self.is_damaged:
            fault = "throttled"
        if fault in SERVERS:
            self.is_clean = False  # what a run takes for its end may not be
        faults.arm(at, self._other_run(chance) if fault == "suspended" else fault)
        try:
            command()
        except (ArtiMuseError, Killed):
            self.is_clean = False
        self.counts[fault] += 1
        faults.arm(None)
        self.trial.look()
        return chance.random() < 0.5

    def _other_run(self, chance: random.Random) -> str | Callable[[], None]:
        """Another run takes the lock over while this one is suspended, which is possible on S3 alone."""
        if not self.trial.root.startswith("memory://"):
            return "killed"
        edits = [self.add, self.delete, self.move, self.touch]

        def other() -> None:
            chance.choice(edits)(chance)
            if self.trial.library.photos:
                self.trial.run(self.trial.library.manifest(), prune=chance.random() < 0.3)
            self.is_clean = False

        return other


EDITS = (
    Sequence.add,
    Sequence.add,
    Sequence.touch,
    Sequence.move,
    Sequence.delete,
    Sequence.away,
    Sequence.swap,
    Sequence.damage,
    Sequence.restore,
)
COMMANDS = (
    *(Sequence.score, Sequence.score, Sequence.score_former, Sequence.score_some, Sequence.prune, Sequence.prune),
    *(Sequence.texts_later, Sequence.texts_later, Sequence.mend, Sequence.mend, Sequence.compact, Sequence.retry),
)


def steps_of(seed: int) -> list[tuple[str, int]]:
    """The steps of a sequence: names of methods, each with a seed of its own."""
    chance = random.Random(seed)
    steps = [((Sequence.score, Sequence.texts_later)[seed % 2].__name__, chance.randrange(2**32))]
    for _ in range(STEPS):
        command = chance.choice(COMMANDS)
        edits = 0 if command is Sequence.mend else chance.randrange(3)
        steps += [(chance.choice(EDITS).__name__, chance.randrange(2**32)) for _ in range(edits)]
        steps.append((command.__name__, chance.randrange(2**32)))
    return steps


def play(steps: list[tuple[str, int]], root: str) -> Counter[str]:
    """Do the steps, then score once more without faults; raises if the tables are not as they must be."""
    sequence = Sequence(root)
    for name, seed in steps:
        getattr(sequence, name)(random.Random(seed))
    if sequence.trial.library.photos:
        sequence.trial.faults.arm(None)
        sequence.is_clean = False
        sequence.trial.run()
        manifest, before = sequence.trial.library.manifest(), sequence.trial.look()
        sequence.trial.run(manifest)
        sequence.trial.check_finished(manifest, before, prune=False, strict=True)
    sequence.counts["reads"] = sequence.trial.reads
    return sequence.counts


def failure_of(steps: list[tuple[str, int]], root: str) -> BaseException | None:
    """The error of a sequence, or None."""
    try:
        play(steps, root)
    except (Exception, Killed, Seen) as error:
        return error
    finally:
        BUCKETS.clear()
    return None


def shrunk(steps: list[tuple[str, int]], root: str) -> list[tuple[str, int]]:
    """The steps without those that the failure does not need."""
    at = 0
    while at < len(steps):
        fewer = steps[:at] + steps[at + 1 :]
        if failure_of(fewer, f"{root}-{len(fewer)}-{at}"):
            steps = fewer
        else:
            at += 1
    return steps


def check(seed: int, folder: str) -> Counter[str]:
    """One sequence, in memory or, each tenth, on a disk."""
    root = f"{folder}/{seed}" if seed % 10 == 0 else f"memory://{seed}"
    if root.startswith("/"):
        Path(root).mkdir()
    try:
        return play(steps_of(seed), root)
    except (Exception, Killed, Seen) as error:
        steps = shrunk(steps_of(seed), root)
        again = failure_of(steps, f"{root}-again")
        raise AssertionError(f"seed {seed}: {steps}: {type(again).__name__}: {again}") from error
    finally:
        BUCKETS.clear()
