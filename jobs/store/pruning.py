"""Pruning: rows whose images the source no longer has are dropped from the tables, file by file.

Only what the source can be known not to have is dropped: below a folder or prefix that was listed whole, or of runs of
the same manifest. A folder that could not be read, or is empty like one whose disk is not mounted, keeps its rows.
"""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from artimuse_actor.errors import BrokenFile, UsageError
from artimuse_actor.uris import without_secrets
from jobs.manifest.id_index import hash_strings
from jobs.manifest.manifest import Manifest
from jobs.plan.planner import manifest_ids
from jobs.storage.parquet import read_parquet
from jobs.storage.place import READ_THREADS, Place
from jobs.store.layout import texts_path
from jobs.store.plan_file import end_plan, unfinished_pruning
from jobs.store.run_record import read_runs
from jobs.store.store import Store
from jobs.store.table_files import TableFile
from schemas.scores import FENCE_KEY


def fence_pruning(place: Place) -> None:
    """Give files that a run was pruning when it lost its lock another version, so that it cannot write them any more.

    It may have been suspended right before a write, and its manifest knows nothing of the rows that this run keeps. On
    a disk a lock ends with its process.
    """
    paths = unfinished_pruning(place)
    for path in paths if place.local_path("") is None else ():
        for part in (path, texts_path(path)):
            with suppress(BrokenFile):  # it is moved away by the repair that follows
                file = TableFile.read(place, part)
                if file.rows is not None:
                    file.replace(file.rows, {**file.rows.schema.metadata, FENCE_KEY: secrets.token_hex(8)})
    if paths:
        end_plan(place)


@dataclass(frozen=True)
class PruneCounts:
    """Rows of the scores table that a source no longer names.

    Attributes:
        gone: those whose images are known to be gone, which a prune drops.
        unknown: the others: the source never named them, or could not look where they were.
        rows: all rows of the table.
    """

    gone: int
    unknown: int
    rows: int


class Pruner:
    """Drops the rows of images that a source is known to have no longer; the caller must have the store's lock."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        """Read the ids of the manifest, and which runs were of this source.

        Raises:
            UsageError: what is gone cannot be known of this source.
            ManifestError: it has no rows.
        """
        if manifest.coverage is None:
            raise UsageError(
                f"--prune: what {manifest.source} does not name may still be there. Name a folder, a prefix or a "
                "manifest, without a pattern, --limit and --shard."
            )
        self._store, self._ids = store, manifest_ids(manifest)
        self._coverage = manifest.coverage  # now that it is known which tars end too early
        source = without_secrets(manifest.source)
        self._runs = {run["run_id"] for run in read_runs(store.place) if run["arguments"].get("source") == source}

    @property
    def manifest_rows(self) -> int:
        """Rows of the manifest."""
        return len(self._ids)

    def count(self) -> PruneCounts:
        """Count the rows that a prune would drop, and those that it would leave although they are not named."""
        return _total(self._counts())

    def drop(self) -> PruneCounts:
        """Drop rows, file by file; returns the counts from before.

        A file without rows left stays, empty: readers that have just listed it can read it. Texts are dropped first, so
        that no texts are left without a score. The current plan counts rows that will be gone, so it ends before that.
        """
        place, found = self._store.place, self._counts()
        paths = [path for path, counts in found.items() if counts.gone]
        if not paths:
            return _total(found)
        end_plan(place, pruning=paths)
        for path in paths:
            scores = TableFile.read(place, path)
            if scores.rows is None:
                continue
            kept = scores.rows.filter(pc.invert(self._gone(scores.rows)[0]))
            texts = TableFile.read(place, texts_path(path))
            if texts.rows is not None:
                mine = pc.is_in(texts.rows["image_id"], kept["image_id"].combine_chunks())
                texts.replace(texts.rows.filter(mine), texts.rows.schema.metadata)
            scores.replace(kept, scores.rows.schema.metadata)
        end_plan(place)
        return _total(found)

    def _counts(self) -> dict[str, PruneCounts]:
        """Scores file → its counts."""
        paths = self._store.table_files().scores_paths
        with ThreadPoolExecutor(READ_THREADS) as pool:
            return dict(zip(paths, pool.map(self._count, paths), strict=True))

    def _count(self, path: str) -> PruneCounts:
        rows = read_parquet(self._store.place, path, ["image_id", "uri", "run_id"])
        gone, unnamed = self._gone(rows)
        dropped = pc.sum(gone).as_py() or 0
        return PruneCounts(dropped, int(unnamed.sum()) - dropped, len(rows))

    def _gone(self, rows: pa.Table) -> tuple[pa.BooleanArray, NDArray[np.bool_]]:
        """Rows whose images are gone, and all that the source does not name."""
        unnamed = self._ids.find(hash_strings(rows["image_id"])) < 0
        gone = np.zeros(len(rows), dtype=np.bool_)
        about = rows.select(["image_id", "uri", "run_id"]).filter(pa.array(unnamed)).to_pydict()
        gone[unnamed] = [
            (self._coverage.root is not None or run_id in self._runs) and self._coverage.includes(image_id, uri)
            for image_id, uri, run_id in zip(*about.values(), strict=True)
        ]
        return pa.array(gone), unnamed


def _total(found: dict[str, PruneCounts]) -> PruneCounts:
    counts = found.values()
    return PruneCounts(sum(c.gone for c in counts), sum(c.unknown for c in counts), sum(c.rows for c in counts))
