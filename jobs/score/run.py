"""The main job: manifest → plan → load → score (and describe) → commit."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from artimuse_actor.actor_config import ActorConfig
from artimuse_actor.checkpoint.checkpoint import CheckpointIdentity
from artimuse_actor.checkpoint.names import identify_checkpoint
from artimuse_actor.errors import RunError
from artimuse_actor.images.options import PIXEL_BYTES
from artimuse_actor.protocol.protocol_file import choose_protocol
from artimuse_actor.protocol.protocols import Protocol
from artimuse_actor.uris import in_bucket, origin_of, shown_uri, without_secrets
from jobs.code_identity import this_code
from jobs.manifest.manifest import Manifest
from jobs.manifest.source import open_manifest
from jobs.score import in_process, pipeline, without_model
from jobs.score.actor_starts import StartLog
from jobs.score.breaker import Breaker
from jobs.score.cluster import Cluster
from jobs.score.commit import ShardCommitter
from jobs.score.in_process import ModelHere
from jobs.score.load import UnitLoader
from jobs.score.meters import Meters
from jobs.score.ray_session import RayOfRuns
from jobs.score.receipts import Receipts
from jobs.score.run_context import Run
from jobs.score.run_plan import checked_pruner, plan_run
from jobs.score.settings import ScoreResult, ScoreSettings
from jobs.score.signals import until_time_is_up
from jobs.score.stage import UnitStager
from jobs.storage.buckets import bucket_exists
from jobs.storage.places import open_place
from jobs.store.counts import Counts
from jobs.store.doubles import refuse_doubles
from jobs.store.fingerprints import fingerprint_of
from jobs.store.listing import refuse_lagging_listing
from jobs.store.lock import RunLock, run_lock
from jobs.store.plan_progress import unit_rows_of
from jobs.store.precision import admit_precision, refuse_other_precision
from jobs.store.pruning import Pruner
from jobs.store.run_record import RunRecord
from jobs.store.store import Store
from schemas.fingerprint import Fingerprint
from schemas.units import staged_unit


@dataclass(frozen=True)
class Asked:
    """A run's settings, with its checkpoint and protocol identified.

    Attributes:
        settings: settings of the `score` command.
        checkpoint: name and digest of the checkpoint.
        protocol: the questions to ask it.
        fingerprint: fingerprint of the scores.
    """

    settings: ScoreSettings
    checkpoint: CheckpointIdentity
    protocol: Protocol
    fingerprint: Fingerprint


@dataclass(frozen=True)
class Machines:
    """What several runs may share.

    Attributes:
        ray: the Ray of large runs.
        here: the model of small ones, in this process.
    """

    ray: RayOfRuns
    here: ModelHere


@contextmanager
def machines(address: str | None) -> Iterator[Machines]:
    """Machines for runs on this Ray cluster, or on this machine alone; nothing is started before a run needs it."""
    with RayOfRuns(address) as ray:
        yield Machines(ray, ModelHere())


def score(
    settings: ScoreSettings, arguments: Mapping[str, Any] | None = None, shared: Machines | None = None
) -> ScoreResult:
    """Score the images that the store lacks.

    Args:
        settings: settings of the run.
        arguments: options of the command, for `run.json`.
        shared: machines of several runs; None for its own.

    Raises:
        ArtiMuseError: the run could not start or had to stop; what was committed stays.
    """
    with Run(settings.log_format, quiet=settings.quiet, ends_at=settings.ends_at) as run:
        asked = _identify(settings, run)
        keep = None if settings.dry_run else open_place(settings.out)
        manifest = open_manifest(settings.source, settings.manifest, settings.fetch, keep)
        store = _open_store(asked)  # refuses another fingerprint before anything is written
        if settings.dry_run:
            return _dry_run(asked, store, manifest, run)
        with run_lock(store.place, run.id) as lock:
            store = _open_store(asked, lock)
            # An old store names no precision: the records of all its runs are read, if there is something to score.
            if store.fingerprint.precision and settings.known_precision and not settings.allow_mixed:
                refuse_other_precision(store, settings.known_precision)
            if store.texts and not settings.texts:
                run.events.note(f"{settings.out} holds texts, so this run makes them too.")
            files, progress = plan_run(store, manifest, settings, run)
            pruner = checked_pruner(store, manifest, settings)
            committer = ShardCommitter(progress, files, lock, run.events.shard_committed)
            record = _record(asked, committer, arguments or {}, run)
            with run.recorded(record, store.place):
                errors = _score_units(asked, manifest, committer, record, run, shared)
                counts = store.counts() if record.left_rows else _reconcile(committer)
                if pruner and not record.left_rows:  # last, so that moved pictures find the scores of their old places
                    pruned, counts = pruner.drop(), store.counts()
                    record.pruned_rows, record.unpruned_rows = pruned.gone, pruned.unknown
            if not record.left_rows:
                progress.discard_work()
    was_finished = committer.rows_to_commit == 0
    return ScoreResult(
        record, store.fingerprint, counts, errors, manifest.notes, asked.protocol, store.texts, was_finished
    )


def _identify(settings: ScoreSettings, run: Run) -> Asked:
    # If Ray is started here, a model is loaded here too; otherwise this machine may lack the disk for a checkpoint.
    checkpoint = identify_checkpoint(settings.checkpoint, fetch=settings.address is None)
    protocol = choose_protocol(settings.protocol, checkpoint, published_arithmetic=settings.published_arithmetic)
    if settings.protocol is None:
        run.events.note(f"Protocol {protocol.name}, guessed from the checkpoint's name.")
    run.end_phase("checkpoint")
    return Asked(settings, checkpoint, protocol, fingerprint_of(checkpoint, protocol, settings.decode))


def _open_store(asked: Asked, lock: RunLock | None = None) -> Store:
    settings, fence = asked.settings, lock.check if lock else None
    return Store.for_run(
        settings.out, asked.fingerprint, asked.protocol, settings.keep_distribution, settings.texts, fence
    )


def _dry_run(asked: Asked, store: Store, manifest: Manifest, run: Run) -> ScoreResult:
    """What a prune would drop, and nothing else."""
    pruner, record = Pruner(store, manifest), RunRecord(run.id, {}, asked.fingerprint)
    found, record.manifest_rows = pruner.count(), pruner.manifest_rows
    record.end("finished")
    about = manifest.notes, asked.protocol, store.texts
    return ScoreResult(record, store.fingerprint, store.counts(), Counter(), *about, was_finished=True, prunable=found)


def _record(asked: Asked, committer: ShardCommitter, arguments: Mapping[str, Any], run: Run) -> RunRecord:
    """The record of the run at its start, and its first event."""
    plan, settings = committer.plan, asked.settings
    record = RunRecord(run.id, arguments, asked.fingerprint, started_at=run.started_at)
    record.plan_id, record.manifest_rows = plan.plan_id, plan.manifest_rows
    record.held_rows = plan.held_rows + plan.rows - committer.rows_to_commit
    record.staged_rows = committer.rows_to_commit - committer.rows_to_score
    places = {"source": without_secrets(settings.source), "out": without_secrets(settings.out)}
    run.events.run_started(record, places | {"rows": committer.rows_to_score, "units": len(committer.units)})
    return record


def _score_units(
    asked: Asked,
    manifest: Manifest,
    committer: ShardCommitter,
    record: RunRecord,
    run: Run,
    shared: Machines | None,
) -> Counter[str]:
    """Run the steps over all units that are not staged, and commit all shards; returns error type → rows."""
    with committer:
        if not committer.units:
            return Counter()
        _refuse_missing_buckets(asked.settings, committer)
        root = manifest.coverage.root if manifest.coverage else None
        breaker = Breaker(root, committer.unstage, partial(_origins, committer))
        done = Receipts(committer, record, run.events, breaker)
        with until_time_is_up(), done.shown.shown():
            if committer.plan.store_files:  # otherwise there are no images to copy from
                done.take(without_model.receipts(committer.units, *_steps_without_model(asked, committer, run.id)))
            if units := [unit for unit in committer.units if unit not in done.units]:
                with nullcontext(shared) if shared else machines(asked.settings.address) as on:
                    _score_with_model(asked, committer, units, done, run, on)
        done.end()
        if done.shown.done < done.shown.total:
            record.left_rows = committer.commit_staged()
    return done.errors


def _origins(committer: ShardCommitter, unit: tuple[int, int]) -> set[str]:
    """The servers of a unit's images."""
    rows = unit_rows_of(committer.store.place, committer.plan, *unit)
    return {origin_of(uri) for uri in rows["uri"].to_pylist() if uri}


def _score_with_model(
    asked: Asked, committer: ShardCommitter, units: list[tuple[int, int]], done: Receipts, run: Run, on: Machines
) -> None:
    """Run the steps over these units, in this process or with Ray."""
    plan, record, pulse = committer.plan, done.record, done.pulse
    # The pixels of a unit; with its columns a unit is a little larger. Ray ends a block as soon as it is larger
    # than this target, and splits one only above one and a half times the target.
    block_bytes = plan.unit_rows * PIXEL_BYTES
    starts = StartLog(committer.store.place, run.id)
    is_local = in_process.fits_here(asked.settings, committer.rows_to_score)
    receipts = on.here.receipts if is_local else pipeline.receipts
    with in_process.in_process() if is_local else on.ray.of_run(block_bytes, starts) as cluster:
        steps = _steps(asked, committer, cluster, starts)
        record.device, record.dtype = steps.actor.device, steps.actor.dtype
        precision = asked.settings.precision(record.dtype)
        record.fingerprint = replace(asked.fingerprint, precision=precision)
        admit_precision(committer.store, precision, allow_mixed=asked.settings.allow_mixed)
        pulse.device, pulse.cores = steps.actor.device, cluster.loading_cores(steps.actor.device, steps.pool.most)
        done.take(receipts(pipeline.unit_blocks(plan, units), steps))


def _steps_without_model(asked: Asked, committer: ShardCommitter, run_id: str) -> tuple[UnitLoader, UnitStager]:
    settings, store, plan, code = asked.settings, committer.store, committer.plan, this_code()
    known, schema = store.known_rows(plan), staged_unit(store.schema, store.texts)
    loader = UnitLoader(store.place, plan, settings.decode, store.answers, known, settings.fetch, code=code)
    return loader, UnitStager(store.place, plan, schema, store.texts, run_id, code=code)


def _steps(asked: Asked, committer: ShardCommitter, cluster: Cluster, starts: StartLog) -> pipeline.Steps:
    settings, store = asked.settings, committer.store
    device = cluster.device(settings.device, may_grow=settings.actors is not None)
    pool = settings.actors or cluster.default_pool(device, settings.actors_per_gpu)
    folder = os.path.expanduser(settings.checkpoint)
    actor = ActorConfig(
        # A name stays a name: each node has a cache of its own.
        checkpoint=os.path.abspath(folder) if os.path.isdir(folder) else settings.checkpoint,
        checkpoint_digest=asked.checkpoint.digest,
        protocol=asked.protocol,
        device=device,
        dtype=cluster.auto_dtype(device) if settings.dtype == "auto" else settings.dtype,
        quantize=settings.quantize,
        batch_size=settings.batch_size,
        keep_distribution=store.keep_distribution,
        texts=store.texts,
        sequences=settings.sequences,
        actors_per_node=-(-pool.most // cluster.nodes),
        starts=starts,
        meters=Meters(),
        code=this_code(),
    )
    loader, stager = _steps_without_model(asked, committer, starts.run_id)
    gpus = 0 if device == "cpu" else 1 / settings.actors_per_gpu
    return pipeline.Steps(loader, actor, pool, gpus_per_actor=gpus, stager=stager)


def _refuse_missing_buckets(settings: ScoreSettings, committer: ShardCommitter) -> None:
    """Stop before anything starts if none of the first unit's buckets exists.

    Then the uris or the endpoint are wrong, not single rows. If only some of the buckets are missing, their rows become
    error rows and the run goes on.
    """
    rows = unit_rows_of(committer.store.place, committer.plan, *committer.units[0])
    buckets = sorted({origin_of(shown_uri(uri)) for uri in rows["uri"].to_pylist() if uri and in_bucket(uri)})
    if settings.fetch.root is not None:  # images are read from this bucket only
        buckets = [bucket for bucket in buckets if bucket == origin_of(settings.fetch.root)]
    if buckets and not any(map(bucket_exists, buckets)):
        named = " or ".join(bucket.partition("://")[2] for bucket in buckets[:3])
        raise RunError(
            f"There is no bucket {named} where the images of {settings.source} should lie. Correct the uris, or "
            "the endpoint in the environment (AWS_ENDPOINT_URL); then run again."
        )


def _reconcile(committer: ShardCommitter) -> Counts:
    """Compare the rows of the tables with those of the plan; returns the counts of the tables.

    Raises:
        RunError: rows are missing, or there are too many.
        StoreError: an id is in the table twice, or a file of the tables is not listed.
    """
    plan, store, files = committer.plan, committer.store, committer.store.table_files()
    refuse_lagging_listing(store.place, files)
    missing = len(plan.shards) - len(committer.progress.committed(files))
    counts, expected = store.counts(files), plan.store_rows + plan.new_rows
    if counts.rows > expected:  # the plan has only ids that the table had not, and no shard has others than planned
        refuse_doubles(store, files)
    if missing or counts.rows != expected:
        raise RunError(
            f"The table holds {counts.rows:,} rows, {expected:,} were planned, and {missing} shards are not committed. "
            "Run the same command again; what is committed stays."
        )
    return counts
