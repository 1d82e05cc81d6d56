"""The main job: manifest → plan → load → score (and describe) → commit, one Ray Data operator a step."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from artimuse_actor.checkpoint.names import CheckpointIdentity, identify_checkpoint
from artimuse_actor.checkpoint.network_config import AUTO_DTYPES
from artimuse_actor.errors import RunError
from artimuse_actor.images.options import PIXEL_BYTES
from artimuse_actor.protocol.protocol_file import open_protocol
from artimuse_actor.protocol.protocols import Protocol, guess_protocol
from artimuse_actor.uris import s3_bucket, without_secrets
from jobs.code_identity import this_code
from jobs.manifest.manifest import Manifest
from jobs.manifest.source import open_manifest
from jobs.plan.plan import Plan, plan_identity, unit_rows_of
from jobs.plan.planner import make_plan, manifest_ids
from jobs.score.actor_starts import StartLog
from jobs.score.bottleneck import Pulse, UnitTimes
from jobs.score.commit import ShardCommitter
from jobs.score.events import Events
from jobs.score.load import UnitLoader
from jobs.score.meters import Meters
from jobs.score.pipeline import pipeline
from jobs.score.progress import Progress
from jobs.score.settings import ScoreResult, ScoreSettings
from jobs.score.signals import terminable
from jobs.storage.place import bucket_exists
from jobs.store.lock import run_lock
from jobs.store.maintenance import heal, keep_only
from jobs.store.run_record import RunRecord, new_run_id
from jobs.store.store import Store
from schemas.fingerprint import Fingerprint

if TYPE_CHECKING:
    from artimuse_actor.actor import ActorConfig


def score(settings: ScoreSettings, arguments: Mapping[str, Any] | None = None) -> ScoreResult:
    """Score what the store does not hold yet.

    Args:
        settings: what to do.
        arguments: to be written down in `run.json`.

    Raises:
        ArtiMuseError: the run could not start or had to stop; what was committed stays.
    """
    with Events(new_run_id(), settings.log_format) as events:
        return _score(settings, arguments or {}, events)


def _score(settings: ScoreSettings, arguments: Mapping[str, Any], events: Events) -> ScoreResult:
    clock = _Clock()
    # Where Ray is started here, a model is going to be as well; else this may be a machine without a large disk.
    checkpoint = identify_checkpoint(settings.checkpoint, fetch=settings.address is None)
    protocol = _protocol(settings, checkpoint, events)
    fingerprint = Fingerprint(
        checkpoint=checkpoint.name,
        checkpoint_digest=checkpoint.digest,
        protocol=protocol.name,
        protocol_digest=protocol.digest,
        preprocessing=settings.decode.version,
    )
    record = RunRecord(events.run_id, arguments, fingerprint)
    clock.lap(record, "checkpoint")
    manifest = open_manifest(settings.source, settings.manifest)
    store = Store.for_run(settings.out, fingerprint, protocol, settings.keep_distribution, settings.texts)
    if store.texts and not settings.texts:
        events.note(f"{settings.out} holds texts, so this run makes them too.")
    errors: Counter[str] = Counter()
    with terminable(), run_lock(store.place, record.run_id) as lock:
        for note in heal(store):
            events.note(note)
        plan = _plan(store, manifest, record.run_id, settings)
        store.declare()
        clock.lap(record, "plan")
        committer = ShardCommitter(store, plan, lock, on_commit=events.shard_committed)
        record.plan_id, record.manifest_rows = plan.plan_id, plan.manifest_rows
        record.held_rows = plan.held_rows + plan.rows - committer.rows_to_commit
        record.write(store.place)
        places = {"source": without_secrets(settings.source), "out": without_secrets(settings.out)}
        events.run_started(record, places | {"rows": committer.rows_to_score, "units": len(committer.units)})
        stopped_by: BaseException | None = None
        try:
            with committer:
                if committer.units:
                    _refuse_missing_buckets(store, plan, committer.units[0], settings)
                    actor = _actor_config(settings, checkpoint, protocol, store, record.run_id)
                    errors = _score_units(committer, store, plan, settings, actor, record, events)
            _reconcile(store, plan)
            if settings.prune:  # last, so that moved pictures find the scores of their old places
                lock.check()
                record.pruned_rows = keep_only(store, manifest_ids(manifest))
            record.end("finished")
        except BaseException as error:
            record.end("interrupted" if isinstance(error, KeyboardInterrupt) else "stopped")
            stopped_by = error
            raise
        finally:
            clock.lap(record, "score")
            record.add_loads(StartLog(store.place, record.run_id).take_loads())
            record.write(store.place)
            events.run_ended(record, stopped_by)
        store.discard_work(plan)
    was_finished = committer.rows_to_commit == 0
    return ScoreResult(record, store.counts(), errors, manifest.notes, protocol, store.texts, was_finished)


def _score_units(
    committer: ShardCommitter,
    store: Store,
    plan: Plan,
    settings: ScoreSettings,
    actor: ActorConfig,
    record: RunRecord,
    events: Events,
) -> Counter[str]:
    """Run the pipeline over all units that are not staged; returns error type → rows."""
    from jobs.score.ray_session import own_errors, running_ray

    errors: Counter[str] = Counter()
    pulse = Pulse()
    staged_rows = committer.rows_to_commit - committer.rows_to_score
    progress = Progress(committer.rows_to_commit, staged_rows, pulse, events)
    # Of a whole unit, which is a little larger: Ray ends a block as soon as it is larger than that, and cuts one only
    # at one and a half times as much.
    block_bytes = plan.unit_rows * PIXEL_BYTES
    with progress.shown(), running_ray(settings.address, block_bytes) as cluster:
        device = cluster.device(settings.device, may_grow=settings.actors is not None)
        pool = settings.actors or cluster.default_pool(device, settings.actors_per_gpu)
        actor = replace(actor, device=device, actors_per_node=pool.most)
        record.device = pulse.device = device
        pulse.cores = cluster.loading_cores(device, pool.most)
        record.dtype = AUTO_DTYPES[device] if settings.dtype == "auto" else settings.dtype
        known = store.known_rows(plan)
        loader = UnitLoader(store.place, plan, settings.decode, store.answers, known, settings.fetch, code=this_code())
        receipts = pipeline(committer.units, store, plan, actor, pool, settings.actors_per_gpu, loader, record.run_id)
        with own_errors():
            for receipt in receipts.iter_rows():
                errors.update(receipt["error_types"])
                record.scored_rows += receipt["scored"]
                record.described_rows += receipt["described"]
                record.text_tokens += receipt["text_tokens"]
                record.copied_rows += receipt["copied"]
                record.failed_rows += len(receipt["error_types"])
                pulse.add(UnitTimes.of(receipt["spent"]))
                progress.add(receipt["rows"], len(receipt["error_types"]))
                record.images_per_s = progress.images_per_s
                record.note_bound(pulse.overall())
                events.unit_staged(receipt, progress.fields())
                committer.unit_staged(receipt["shard"], receipt["unit"])
    return errors


def _protocol(settings: ScoreSettings, checkpoint: CheckpointIdentity, events: Events) -> Protocol:
    if settings.protocol:
        return open_protocol(settings.protocol)
    guessed = guess_protocol(checkpoint.source)
    events.note(f"Protocol {guessed.name}, guessed from the checkpoint's name.")
    return guessed


def _plan(store: Store, manifest: Manifest, run_id: str, settings: ScoreSettings) -> Plan:
    """The last run's plan if it is still for this manifest and this store, else a new one."""
    plan, retry = store.current_plan(), settings.retry
    if plan is not None:
        if plan.identity == plan_identity(manifest, retry) and store.can_continue(plan):
            is_done = len(store.committed(plan)) == len(plan.shards)
            if not (is_done and store.wants_retry(retry)):
                return plan
        store.retire(plan)
    plan = make_plan(
        store.place,
        manifest,
        store.held(retry),
        run_id,
        settings.unit_size,
        settings.shard_rows,
        texts=bool(store.texts),
        retry=retry,
    )
    if plan.store_files and any(not shard.texts_only for shard in plan.shards):
        store.write_known_images(plan)
    return plan


def _refuse_missing_buckets(store: Store, plan: Plan, unit: tuple[int, int], settings: ScoreSettings) -> None:
    """Stop before anything starts if none of the buckets is there that the next images should lie in.

    That is a misprint, or another endpoint, and no row's fault. One bucket of several that is gone is an error of its
    rows: nobody else's row must stop a run.
    """
    uris = (uri for uri in unit_rows_of(store.place, plan, *unit)["uri"].to_pylist() if uri)
    buckets = sorted({bucket for uri in uris if (bucket := s3_bucket(uri))})
    if settings.fetch.root is not None:  # no other is asked for anything
        buckets = [bucket for bucket in buckets if bucket == s3_bucket(settings.fetch.root)]
    if buckets and not any(map(bucket_exists, buckets)):
        raise RunError(
            f"There is no bucket {' or '.join(buckets[:3])} where the images of {settings.source} should lie. Correct "
            "the uris, or AWS_ENDPOINT_URL; then run again."
        )


def _reconcile(store: Store, plan: Plan) -> None:
    """Count both sides: what the plan promised, and what the table holds."""
    missing = len(plan.shards) - len(store.committed(plan))
    rows = store.row_count()
    expected = plan.store_rows + plan.new_rows
    if missing or rows != expected:
        raise RunError(
            f"The table holds {rows:,} rows, {expected:,} were planned, and {missing} shards are not committed. "
            "Run the same command again; what is committed stays."
        )


def _actor_config(
    settings: ScoreSettings, checkpoint: CheckpointIdentity, protocol: Protocol, store: Store, run_id: str
) -> ActorConfig:
    from artimuse_actor.actor import ActorConfig

    folder = os.path.expanduser(settings.checkpoint)
    return ActorConfig(
        # A name stays a name: each node has a cache of its own.
        checkpoint=os.path.abspath(folder) if os.path.isdir(folder) else settings.checkpoint,
        checkpoint_digest=checkpoint.digest,
        protocol=protocol,
        device=settings.device,
        dtype=settings.dtype,
        batch_size=settings.batch_size,
        keep_distribution=store.keep_distribution,
        texts=store.texts,
        sequences=settings.sequences,
        starts=StartLog(store.place, run_id),
        meters=Meters(),
        code=this_code(),
    )


class _Clock:
    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self, record: RunRecord, phase: str) -> None:
        now = time.monotonic()
        record.seconds[phase] = round(now - self._last, 3)
        self._last = now
