"""The plan of a run: the last run's if it still fits, else a new one; and what is pruned at the end."""

from __future__ import annotations

import math

from artimuse_actor.errors import RunError
from jobs.manifest.manifest import Manifest
from jobs.plan.plan import Plan, plan_identity
from jobs.score.run_context import Run
from jobs.score.settings import ScoreSettings
from jobs.store.listing import refuse_lagging_listing
from jobs.store.maintenance import heal
from jobs.store.plan_progress import PlanProgress
from jobs.store.pruning import Pruner
from jobs.store.roots import note_of_move, note_of_other_ids, refuse_other_library, take_over_uris
from jobs.store.store import Store
from jobs.store.table_files import TableFiles


def checked_pruner(store: Store, manifest: Manifest, settings: ScoreSettings) -> Pruner | None:
    """What drops rows at the end, if that is asked for. Raises RunError if it would drop too many."""
    if not settings.prune:
        return None
    pruner = Pruner(store, manifest)
    found = pruner.count()
    if found.gone > settings.prune_max * found.rows:
        share = found.gone / found.rows
        raise RunError(
            f"{settings.out}: --prune would drop {found.gone:,} of {found.rows:,} rows ({share:.0%}), more than "
            f"--prune-max {settings.prune_max:.0%}, since {settings.source} has their images no longer. No image was "
            f"scored and no row dropped. If they are to go, give --prune-max {math.ceil(share * 100)}%; else look "
            "whether a disk is missing."
        )
    return pruner


def plan_run(store: Store, manifest: Manifest, settings: ScoreSettings, run: Run) -> tuple[TableFiles, PlanProgress]:
    """The last run's plan if it still fits manifest and store, else a new one; with the files of the tables."""
    files, notes = heal(store)
    for note in notes:
        run.events.note(note, is_news=True)
    if settings.moved:
        run.events.note(f"{take_over_uris(store, manifest):,} rows have new uris.")
    progress = _continued(store, manifest, files, settings)
    if progress is not None:
        _note_move(store, manifest, files, settings, run)
    else:
        if old := PlanProgress.current(store):
            old.retire(files)
            files = store.table_files()
            refuse_lagging_listing(store.place, files)
        sizes = settings.unit_size, settings.shard_rows

        def check(plan: Plan) -> None:
            if not settings.moved:
                refuse_other_library(store, plan, manifest)
            if plan.held_rows:
                _note_move(store, manifest, files, settings, run)
            if note := note_of_other_ids(store, plan, manifest, files):
                run.events.note(note, is_news=True)

        progress = PlanProgress.begin(store, manifest, run.id, *sizes, files=files, retry=settings.retry, check=check)
    store.declare()
    run.end_phase("plan")
    return files, progress


def _note_move(store: Store, manifest: Manifest, files: TableFiles, settings: ScoreSettings, run: Run) -> None:
    if not settings.moved and (note := note_of_move(store, manifest, files)):
        run.events.note(note)


def _continued(store: Store, manifest: Manifest, files: TableFiles, settings: ScoreSettings) -> PlanProgress | None:
    """The last run's plan, if this run is to go on with it."""
    progress, retry = PlanProgress.current(store), settings.retry
    if progress is None or progress.plan.identity != plan_identity(manifest, retry) or not progress.can_continue(files):
        return None
    plan = progress.plan
    if len(progress.committed(files)) < len(plan.shards):
        return progress
    # A plan that is done but does not count the table's rows would stop every run at its end.
    return None if files.rows != plan.store_rows + plan.new_rows or store.wants_retry(files, retry) else progress
