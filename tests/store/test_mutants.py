"""Faults planted in the commit protocol: each must be found by a random history, or by an interruption.

    python tests/store/test_mutants.py

looks for each in all histories of the test and in all interruptions, and prints where it is found.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `support`, if this is started by hand

import pyarrow as pa
import pytest
from support.faulty_places import BUCKETS, FaultyDisk, Killed, MemoryPlace, Seen
from support.histories import failure_of, steps_of
from support.interruptions import SCENARIOS, begin, crash_everywhere, suspend_everywhere

from jobs.plan.plan import Plan, ShardPlan
from jobs.storage.place import Place
from jobs.store import plan_file
from jobs.store.layout import texts_path
from jobs.store.lock import RunLock
from jobs.store.plan_progress import PlanProgress
from jobs.store.store import Store
from jobs.store.table_files import TableFiles


def _unconditional(place: Any, path: str, data: bytes, version: str | None) -> bool:
    place.write(path, data)
    return True


def _parts_as_whole(write: Callable[..., None], progress: PlanProgress, *given: Any, part: bool = False) -> None:
    write(progress, *given, part=False)


def _parts_elsewhere(
    write: Callable[..., None], progress: PlanProgress, shard: Any, rows: pa.Table, **part: bool
) -> None:
    """A part has a name of its own, and is deleted when the shard is whole."""
    if part.get("part"):
        with patch("jobs.store.plan_progress.scores_path", _part_path):
            write(progress, shard, rows, **part)
    else:
        write(progress, shard, rows)
        if not shard.replaces:
            path = _part_path(progress.plan, shard)
            progress.store.place.delete(path)
            progress.store.place.delete(texts_path(path))


def _part_path(plan: Plan, shard: ShardPlan) -> str:
    return shard.replaces or f"scores/{plan.plan_id}-{shard.index:05}-part.parquet"


def _ends_last(place: Place, pruning: Any = ()) -> None:
    """The plan of a prune ends only after its last write."""
    if not pruning:
        plan_file.end_plan(place)


def _texts_not_looked_at(can: Callable[..., bool], progress: PlanProgress, files: TableFiles | None = None) -> bool:
    return can(PlanProgress(progress.store, replace(progress.plan, store_texts=())), files)


def _all_fit(rows: pa.Table, *_: object) -> pa.Array:
    return pa.repeat(pa.scalar(True), len(rows))


def _by_scores_alone(committed: Callable[..., set[int]], progress: PlanProgress, *given: Any) -> set[int]:
    wrote = progress._wrote
    with patch.object(progress, "_wrote", lambda path: path.startswith("texts/") or wrote(path)):
        return committed(progress, *given)


def _deleting(store: Store, path: str) -> bool:
    store.place.delete(path)
    return False


def _with(target: Any, name: str, mutant: Callable[..., Any]) -> Callable[[], AbstractContextManager[Any]]:
    """A patch of a method that is given the original."""
    original = getattr(target, name)

    def mutated(*given: Any, **named: Any) -> Any:
        return mutant(original, *given, **named)

    return lambda: patch.object(target, name, mutated)


@contextlib.contextmanager
def _unconditional_puts() -> Iterator[None]:
    with patch.object(MemoryPlace, "swap", _unconditional), patch.object(FaultyDisk, "swap", _unconditional):
        yield


@contextlib.contextmanager
def _lag_believed() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for module in ("score.run", "score.run_plan", "store.maintenance"):
            stack.enter_context(patch(f"jobs.{module}.refuse_lagging_listing", lambda *_: None))
        yield


@dataclass(frozen=True)
class Mutant:
    """A fault of the commit protocol.

    Attributes:
        plant: a context in which it is there.
        found_by: the interruption, as (`killed` or `suspended`, scenario), or the seed of the history that finds it.
    """

    plant: Callable[[], AbstractContextManager[Any]]
    found_by: tuple[str, str] | int


MUTANTS = {
    "unconditional PUTs": Mutant(_unconditional_puts, ("suspended", "score with texts")),
    "a part counts as its whole shard": Mutant(
        _with(PlanProgress, "_write_shard", _parts_as_whole), ("killed", "score with texts")
    ),
    "parts under names of their own": Mutant(
        _with(PlanProgress, "_write_shard", _parts_elsewhere), ("killed", "score with texts")
    ),
    "texts that are gone are not missed": Mutant(_with(PlanProgress, "can_continue", _texts_not_looked_at), 187),
    "the plan of a prune ends last": Mutant(
        lambda: patch("jobs.store.pruning.end_plan", _ends_last), ("suspended", "prune")
    ),
    "a prune is not fenced": Mutant(
        lambda: patch("jobs.store.maintenance.fence_pruning", lambda _: None), ("suspended", "prune")
    ),
    "the lock is never checked": Mutant(lambda: patch.object(RunLock, "check", lambda _: None), ("suspended", "score")),
    "rows that the tables have are committed again": Mutant(
        lambda: patch("jobs.store.plan_progress._fits", _all_fit), ("killed", "a file comes back")
    ),
    "an abandoned plan is taken up again": Mutant(
        lambda: patch("jobs.store.plan_progress.abandon_plan", lambda _: None), ("killed", "texts gone in the middle")
    ),
    "a shard is committed by its scores alone": Mutant(
        _with(PlanProgress, "committed", _by_scores_alone), ("killed", "texts gone at the end")
    ),
    "a plan whose texts are dropped is taken up again": Mutant(
        lambda: patch("jobs.store.maintenance.abandon_plan", lambda _: None), 840415
    ),
    "texts without scores stay": Mutant(
        lambda: patch("jobs.store.plan_progress._drop_texts_without_scores", lambda *_: None),
        ("killed", "texts ahead of scores"),
    ),
    "files of the tables are deleted": Mutant(
        lambda: patch("jobs.store.maintenance._drop", _deleting), ("suspended", "texts without scores")
    ),
    "a listing that lags is believed": Mutant(_lag_believed, 114),
}


def found(mutant: Mutant, where: tuple[str, str] | int, folder: Path) -> bool:
    """Whether an interruption, or a history, finds a mutant."""
    BUCKETS.clear()
    with mutant.plant():
        if isinstance(where, int):
            return failure_of(steps_of(where), f"memory://{where}") is not None
        kind, scenario = where
        try:
            snapshot, prune = begin("memory://mutant", scenario, folder / "before")
            tried = crash_everywhere if kind == "killed" else suspend_everywhere
            tried(snapshot, prune=prune)
        except (Exception, Killed, Seen):
            return True
        finally:
            BUCKETS.clear()
        return False


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_that_is_planted_in_the_commit_protocol_is_found(name: str, tmp_path: Path) -> None:
    """What finds it finds nothing without it: that is what the tests of histories and interruptions say."""
    mutant = MUTANTS[name]
    assert found(mutant, mutant.found_by, tmp_path)


def main() -> None:
    """Look for each in all interruptions, and in the histories of the test until one finds it."""
    for name, mutant in MUTANTS.items():
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            here = partial(found, mutant, folder=Path(folder))
            places = [(kind, scenario) for scenario in SCENARIOS for kind in ("killed", "suspended")]
            finders = [", ".join(place) for place in places if here(where=place)]
            seed = next((str(seed) for seed in range(300) if here(where=seed)), "none of 300")
        print(f"{name}: {'; '.join(finders) or 'no interruption'}; first history: {seed}", flush=True)


if __name__ == "__main__":
    main()
