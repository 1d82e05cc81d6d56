"""The current plan of a store, in `_plan.json`.

The file is never deleted: each change replaces the version that was read, so that a run that has lost its lock without
knowing cannot end, or replace, the plan of the run after it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from artimuse_actor.errors import StoreLocked
from jobs.plan.plan import Plan
from jobs.storage.place import Place
from jobs.store.layout import PLAN_FILE, scores_path, texts_path


def current_plan(place: Place) -> Plan | None:
    """The plan that the last run worked on, finished or not; None if there is none, or it cannot be read.

    Nothing is lost without it: its rows that were not committed are planned again.
    """
    try:
        return Plan.from_json(place.read(PLAN_FILE))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def recorded_files(place: Place) -> set[str]:
    """Paths of the files that the tables have, according to the last plan; some may not be written yet."""
    if plan := current_plan(place):
        own = [scores_path(plan, shard) for shard in plan.shards]
        return {*plan.store_files, *plan.store_texts, *own, *map(texts_path, own if plan.texts else ())}
    return set(_ended(place).get("files", ()))


def plan_version(place: Place) -> str | None:
    """The version of the file, for `make_current`."""
    found = place.read_version(PLAN_FILE)
    return found and found[1]


def make_current(place: Place, plan: Plan, version: str | None) -> None:
    """Make a plan the current one, if the file is still of this version. Raises StoreLocked."""
    _swap(place, plan.to_json(), version)


def abandon_plan(place: Place) -> None:
    """Let no run go on with the current plan, but the next commit what it has staged, see `PlanProgress.retire`.

    Raises:
        StoreLocked: another run has written the file meanwhile.
    """
    version = plan_version(place)
    if (plan := current_plan(place)) and plan.identity:
        make_current(place, replace(plan, identity=""), version)


def end_plan(place: Place, pruning: Sequence[str] = (), files: Sequence[str] = ()) -> None:
    """Let no run go on with the current plan.

    Args:
        place: the place of the store.
        pruning: paths of the files that are pruned now; another `end_plan` notes that this is done.
        files: paths of files of the tables that no plan names.

    The file goes on naming the files of the tables, see `recorded_files`.

    Raises:
        StoreLocked: another run has written the file meanwhile.
    """
    if (version := plan_version(place)) is not None or pruning or files:
        ended = {"pruning": list(pruning), "files": sorted(recorded_files(place).union(files))}
        _swap(place, json.dumps(ended), version)


def unfinished_pruning(place: Place) -> list[str]:
    """Paths of files that a run was pruning when it died; empty if none was."""
    return list(_ended(place).get("pruning", ()))


def _ended(place: Place) -> dict[str, list[str]]:
    """The content of the file after `end_plan`; empty if there is a plan, or it cannot be read."""
    try:
        raw: Any = json.loads(place.read(PLAN_FILE))
    except (FileNotFoundError, ValueError):
        return {}
    if not isinstance(raw, dict):
        return {}
    lists = {name: raw[name] for name in ("pruning", "files") if isinstance(raw.get(name), list)}
    return {name: [path for path in paths if isinstance(path, str)] for name, paths in lists.items()}


def _swap(place: Place, content: str, version: str | None) -> None:
    if not place.swap(PLAN_FILE, content.encode(), version):
        raise StoreLocked(
            f"{place.uri(PLAN_FILE)}: another run has written this file meanwhile, so it has taken the lock over. Run "
            "again when the other has ended."
        )
