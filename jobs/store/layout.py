"""The paths of a store, relative to its root; other modules know `_tars`, `_runs/tmp` and the name `_store.json`.

    scores/<plan>-<shard>.parquet               committed shards, nothing else, ever
    texts/<plan>-<shard>.parquet                the texts of the same shard
    metrics/<evaluation>.parquet                evaluations
    answers/<data set>.parquet                  replies to a list of questions beside the right answers
    _store.json                                 the fingerprint of all scores of the store, and which texts it has
    _tars/                                      indexes of a source's tars, see `jobs.manifest.tar_index`
    _plan.json                                  the current plan, written after its rows; or that there is none
    _lock                                       the run that is writing
    _runs/<run>/run.json                        the record of a run
    _runs/<run>/starts/<actor>/<node>/, loads/  models that are being loaded, and how long loading took
    _runs/<plan>/rows/00007.parquet             shard 7, one row group for each unit
    _runs/<plan>/staging/00007/0003.parquet     unit 3 of shard 7, scored
    _runs/<plan>/attempts/00007/0003            mark of unit 3 of shard 7, while it is loaded
    _runs/<plan>/known/digests, blocks          images that had a score when the plan was made
    _curations/<digest>.json                    options and result of a curation
    _sidecars/<export>-<part>.parquet           sidecars of pictures as they were before an export
    _broken/                                    files of the tables that were found cut short

Dataset readers skip names that begin with an underscore. Unfinished files on a disk, before they are renamed, are in
`jobs.storage.local_place.TEMPORARY`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from jobs.manifest import listing
from jobs.plan.plan import Plan, ShardPlan

SCORES: Final = "scores"
TEXTS: Final = "texts"
METRICS: Final = "metrics"
ANSWERS: Final = "answers"
TABLES: Final = (SCORES, TEXTS, METRICS, ANSWERS)
STORE_FILE: Final = listing.STORE_FILE
PLAN_FILE: Final = "_plan.json"
LOCK_FILE: Final = "_lock"
RUNS: Final = "_runs"
CURATIONS: Final = "_curations"
SIDECARS: Final = "_sidecars"
_BROKEN: Final = "_broken"
OWN_NAMES: Final = frozenset((*TABLES, STORE_FILE, PLAN_FILE, LOCK_FILE, RUNS, CURATIONS, SIDECARS, _BROKEN, "_tars"))
"""Files and folders of a store; other names in its folder are the user's."""

_WORK: Final = ("rows", "staging", "attempts", "known")


def scores_path(plan: Plan, shard: ShardPlan) -> str:
    """The scores file of a shard: the file that it replaces, or a new one."""
    return shard.replaces or f"{SCORES}/{plan.plan_id}-{shard.index:05}.parquet"


def compacted_path(number: int) -> str:
    """A scores file of a compacted store."""
    return f"{SCORES}/compacted-{number:05}.parquet"


def texts_path(scores_path: str) -> str:
    """The texts file beside a scores file."""
    return f"{TEXTS}/{scores_path.removeprefix(f'{SCORES}/')}"


def broken_path(path: str) -> str:
    """The path to which a file of the tables that is cut short is moved."""
    return f"{_BROKEN}/{path}"


def metrics_path(name: str) -> str:
    """The metrics of one evaluation."""
    return f"{METRICS}/{name}.parquet"


def answers_path(name: str) -> str:
    """The answers to the questions of one data set."""
    return f"{ANSWERS}/{name}.parquet"


def run_path(run_id: str) -> str:
    """The record of a run."""
    return f"{RUNS}/{run_id}/run.json"


def is_run_path(path: str) -> bool:
    """Whether a path is that of a run's `run.json`."""
    return re.fullmatch(rf"{RUNS}/[^/]+/run\.json", path) is not None


def starts_folder(run_id: str) -> str:
    """The folder of marks of the starts of a run's actors: a folder each, and in it one for each node."""
    return f"{RUNS}/{run_id}/starts"


def failure_path(run_id: str) -> str:
    """The error of the last actor of a run that could not start."""
    return f"{RUNS}/{run_id}/failure.json"


def loads_folder(run_id: str) -> str:
    """The folder of the loading times of a run's models."""
    return f"{RUNS}/{run_id}/loads"


def plan_folder(plan_id: str) -> str:
    """The folder of a plan's files, deleted when it is done, and of the record of the run that made it."""
    return f"{RUNS}/{plan_id}"


def rows_path(plan_id: str, shard: int) -> str:
    """The file of the rows to score of one shard."""
    return f"{_work_folder(plan_id, 'rows')}/{shard:05}.parquet"


def staging_folder(plan_id: str, shard: int | None = None) -> str:
    """The folder of the scored units of a plan, or of one of its shards."""
    folder = _work_folder(plan_id, "staging")
    return folder if shard is None else f"{folder}/{shard:05}"


def staged_path(plan_id: str, shard: int, unit: int) -> str:
    """The file of one scored unit; its name depends on the unit alone, so that a retry overwrites it."""
    return f"{staging_folder(plan_id, shard)}/{unit:04}.parquet"


def staged_unit_of(path: str) -> tuple[int, int]:
    """Shard and unit of a `staged_path`."""
    shard, unit = path.removesuffix(".parquet").split("/")[-2:]
    return int(shard), int(unit)


def attempt_path(plan_id: str, shard: int, unit: int) -> str:
    """The mark of a unit that is being loaded; if it is found later, loading was broken off."""
    return f"{_work_folder(plan_id, 'attempts')}/{shard:05}/{unit:04}"


def known_path(plan_id: str, name: str) -> str:
    """A file about the images that had a score when the plan was made: `digests`, or `blocks` of these."""
    return f"{_work_folder(plan_id, 'known')}/{name}"


def work_folders(plan_id: str) -> list[str]:
    """The folders in `plan_folder` that are deleted when the plan is done."""
    return [_work_folder(plan_id, part) for part in _WORK]


def work_of(paths: Iterable[str]) -> dict[str, set[str]]:
    """Plan → its work folders, of those that files below `RUNS` lie in."""
    found: dict[str, set[str]] = {}
    for path in paths:
        if match := re.match(rf"{RUNS}/([^/]+)/({'|'.join(_WORK)})/", path):
            found.setdefault(match.group(1), set()).add(_work_folder(*match.groups()))
    return found


def _work_folder(plan_id: str, part: str) -> str:
    return f"{plan_folder(plan_id)}/{part}"
