"""The main job: manifest → plan → load → score → commit, one Ray Data operator a step."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from artimuse_actor.checkpoint import Checkpoint
from artimuse_actor.errors import RunError, UsageError
from artimuse_actor.hub import open_checkpoint
from artimuse_actor.images import PIXEL_BYTES, DecodeOptions
from artimuse_actor.protocols import Protocol, get_protocol, guess_protocol
from jobs.load import UnitLoader
from jobs.lock import run_lock
from jobs.manifest import Manifest, ManifestOptions, open_manifest
from jobs.plan import SHARD_ROWS, Plan, ShardPlan, make_plan
from jobs.progress import Progress
from jobs.runs import RunRecord, new_run_id
from jobs.storage import Place, parquet_bytes
from jobs.store import Counts, Store
from schemas.fingerprint import Fingerprint
from schemas.scores import OK, RECEIPT, UNIT

if TYPE_CHECKING:
    from ray.data import Dataset

    from artimuse_actor.actor import ActorConfig

_COMMIT_THREADS: Final = 2
_BLOCK_SLACK: Final = 1.1  # the columns of a block that are not pixels


@dataclass(frozen=True)
class ScoreSettings:
    """What the `score` command was asked.

    Attributes:
        source: what to score, see `jobs.manifest`.
        checkpoint: folder or name.
        out: the store.
        manifest: how the source is read.
        decode: how images are decoded.
        protocol: its name, or None to guess it from the checkpoint's.
        device: `auto`, `cpu` or `cuda`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        batch_size: images of a forward pass, or `auto`.
        shard_rows: rows of a shard: of each file of the output.
        unit_size: rows of a unit, or None for a size that fits the job.
        actors: how many models work at once, or None for one on each GPU.
        keep_distribution: keep the probabilities of the levels.
        address: of a Ray cluster, or None to start Ray here.
    """

    source: str
    checkpoint: str
    out: str
    manifest: ManifestOptions = field(default_factory=ManifestOptions)
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    protocol: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | str = "auto"
    unit_size: int | None = None
    shard_rows: int = SHARD_ROWS
    actors: int | None = None
    keep_distribution: bool = False
    address: str | None = None

    def __post_init__(self) -> None:
        for option, value in (("--unit-size", self.unit_size), ("--actors", self.actors)):
            if value is not None and value < 1:
                raise UsageError(f"{option} takes a whole number from 1, not {value}.")


@dataclass(frozen=True)
class ScoreResult:
    """What a run did.

    Attributes:
        record: as in its `run.json`.
        counts: rows of the whole store.
        new_errors: error type → rows that this run made.
        notes: what was left out of the source, and why.
        protocol: what was asked.
        was_finished: the store held every row before the run.
    """

    record: RunRecord
    counts: Counts
    new_errors: Counter[str]
    notes: list[str]
    protocol: Protocol
    was_finished: bool


def score(settings: ScoreSettings, arguments: Mapping[str, Any] | None = None) -> ScoreResult:
    """Score what the store does not hold yet.

    Args:
        settings: what to do.
        arguments: to be written down in `run.json`.

    Raises:
        ArtiMuseError: the run could not start or had to stop; what was committed stays.
    """
    clock = _Clock()
    checkpoint = open_checkpoint(settings.checkpoint)
    protocol = get_protocol(settings.protocol) if settings.protocol else guess_protocol(settings.checkpoint)
    fingerprint = Fingerprint(
        checkpoint=checkpoint.name,
        checkpoint_digest=checkpoint.digest,
        protocol=protocol.name,
        protocol_digest=protocol.digest,
        preprocessing=settings.decode.version,
    )
    manifest = open_manifest(settings.source, settings.manifest)
    store = Store.for_run(settings.out, fingerprint, protocol, settings.keep_distribution)
    record = RunRecord(new_run_id(), arguments or {}, fingerprint)
    with run_lock(store.place, record.run_id):
        plan = _plan(store, manifest, record.run_id, settings)
        record.plan_id, record.manifest_rows = plan.plan_id, plan.manifest_rows
        clock.lap(record, "plan")
        pending = [shard for shard in plan.shards if shard.index not in store.committed(plan)]
        before = plan.rows - sum(shard.rows for shard in pending)
        record.held_rows = plan.held_rows + before
        record.write(store.place)
        run = _Run(store, plan, record)
        try:
            if pending:
                run.score(pending, settings, checkpoint, protocol)
                clock.lap(record, "score")
            _reconcile(store, plan)
            record.end("finished")
        except BaseException:
            record.end("stopped")
            raise
        finally:
            record.scored_rows, record.failed_rows = run.progress_rows, sum(run.errors.values())
            record.write(store.place)
        store.discard_work(plan)
    return ScoreResult(record, store.counts(), run.errors, manifest.notes, protocol, was_finished=not pending)


def pipeline(
    units: list[dict[str, int]], store: Store, plan: Plan, actor: ActorConfig, settings: ScoreSettings, run_id: str
) -> Dataset:
    """Units → receipts, one block a unit all the way."""
    import ray.data

    from artimuse_actor.actor import ArtiMuseActor

    blocks = [pa.Table.from_pylist([unit], schema=UNIT) for unit in units]
    return (
        ray.data.from_arrow(blocks)
        .map_batches(
            UnitLoader(store.place, plan, settings.decode), batch_size=None, batch_format="pyarrow", num_cpus=1
        )
        .map_batches(
            ArtiMuseActor,
            fn_constructor_args=(actor,),
            compute=ray.data.ActorPoolStrategy(
                size=settings.actors,
                # The next block arrives while this one is scored: 96% busy instead of 49% with a stub at a GPU's pace.
                max_concurrent_calls_per_actor=2,
                enable_true_multi_threading=True,
            ),
            batch_size=None,
            batch_format="pyarrow",
            # The pool and the loaders share one budget of CPUs, and two of them would deadlock.
            num_cpus=0,
            num_gpus=1 if actor.device == "cuda" else 0,
        )
        .map_batches(
            UnitStager(store.place, plan, store.schema, run_id), batch_size=None, batch_format="pyarrow", num_cpus=0.25
        )
    )


@dataclass(frozen=True)
class UnitStager:
    """Writes a scored unit where its shard's commit will look for it.

    Attributes:
        place: of the store.
        plan: whose unit it is.
        schema: of the scores table.
        run_id: of this run.
    """

    place: Place
    plan: Plan
    schema: pa.Schema
    run_id: str

    def __call__(self, unit: pa.Table) -> pa.Table:
        """A block of schema `scored_unit` → its receipt, of schema `RECEIPT`."""
        shard, number = unit["shard"][0].as_py(), unit["unit"][0].as_py()
        made = {"run_id": self.run_id, "scored_at": datetime.now(UTC)}
        rows = pa.table(
            [
                pa.array([made[column.name]] * len(unit), column.type) if column.name in made else unit[column.name]
                for column in self.schema
            ],
            schema=self.schema,
        )
        self.place.write(self.plan.staged_path(shard, number), parquet_bytes(rows))
        errors = unit["error_type"].drop_null().to_pylist()
        ok = unit["status"].to_pylist().count(OK)
        receipt = {"shard": shard, "unit": number, "rows": len(unit), "ok": ok, "error_types": errors}
        return pa.Table.from_pylist([receipt], schema=RECEIPT)


class _Run:
    """The work of one run on one plan."""

    def __init__(self, store: Store, plan: Plan, record: RunRecord) -> None:
        self.store, self.plan, self.record = store, plan, record
        self.progress_rows = 0
        self.errors: Counter[str] = Counter()

    def score(
        self, pending: list[ShardPlan], settings: ScoreSettings, checkpoint: Checkpoint, protocol: Protocol
    ) -> None:
        staged = self.store.staged(self.plan)
        units = [
            {"shard": shard.index, "unit": unit}
            for shard in pending
            for unit in range(shard.units)
            if unit not in staged[shard.index]
        ]
        with ThreadPoolExecutor(_COMMIT_THREADS, thread_name_prefix="commit") as pool:
            commits = [self._commit(pool, shard) for shard in pending if len(staged[shard.index]) == shard.units]
            if units:
                self._score_units(units, pending, staged, pool, commits, settings, checkpoint, protocol)
            for commit in commits:
                commit.result()

    def _score_units(
        self,
        units: list[dict[str, int]],
        pending: list[ShardPlan],
        staged: dict[int, set[int]],
        pool: ThreadPoolExecutor,
        commits: list[Future[None]],
        settings: ScoreSettings,
        checkpoint: Checkpoint,
        protocol: Protocol,
    ) -> None:
        from jobs.cluster import running_ray

        shards = {shard.index: shard for shard in pending}
        rows = sum(shard.rows for shard in pending)
        waiting_rows = sum(min(self.plan.unit_rows, self._unit_rows(shards[u["shard"]], u["unit"])) for u in units)
        progress = Progress(rows, done=rows - waiting_rows)
        with running_ray(settings.address, int(self.plan.unit_rows * PIXEL_BYTES * _BLOCK_SLACK)) as cluster:
            device = cluster.device(settings.device)
            sized = replace(settings, actors=settings.actors or cluster.default_actors(device))
            actor = _actor_config(sized, checkpoint, protocol, device, self.store.keep_distribution)
            receipts = pipeline(units, self.store, self.plan, actor, sized, self.record.run_id)
            with progress.shown():
                for receipt in _rows_of(receipts):
                    shard = shards[receipt["shard"]]
                    staged[shard.index].add(receipt["unit"])
                    self.progress_rows += receipt["rows"]
                    self.errors.update(receipt["error_types"])
                    progress.add(receipt["rows"], len(receipt["error_types"]))
                    self.record.images_per_s = progress.images_per_s
                    if len(staged[shard.index]) == shard.units:
                        commits.append(self._commit(pool, shard))

    def _unit_rows(self, shard: ShardPlan, unit: int) -> int:
        return shard.rows - unit * self.plan.unit_rows

    def _commit(self, pool: ThreadPoolExecutor, shard: ShardPlan) -> Future[None]:
        return pool.submit(self.store.commit, self.plan, shard)


def _plan(store: Store, manifest: Manifest, run_id: str, settings: ScoreSettings) -> Plan:
    """The last run's plan if it is still for this manifest and this store, else a new one."""
    plan = store.current_plan()
    if plan is not None:
        if plan.identity == manifest.identity() and store.is_current(plan):
            return plan
        store.retire(plan)
    return make_plan(store.place, manifest, store.held(), run_id, settings.unit_size, settings.shard_rows)


def _reconcile(store: Store, plan: Plan) -> None:
    """Count both sides: what the plan promised, and what the table holds."""
    missing = [shard for shard in plan.shards if shard.index not in store.committed(plan)]
    rows = store.row_count()
    expected = plan.store_rows + plan.new_rows
    if missing or rows != expected:
        raise RunError(
            f"The table holds {rows:,} rows, {expected:,} were planned, and {len(missing)} shards are not committed. "
            "Run the same command again; what is committed stays."
        )


def _actor_config(
    settings: ScoreSettings, checkpoint: Checkpoint, protocol: Protocol, device: str, keep_distribution: bool
) -> ActorConfig:
    from artimuse_actor.actor import ActorConfig

    folder = os.path.expanduser(settings.checkpoint)
    return ActorConfig(
        checkpoint=os.path.abspath(folder) if os.path.isdir(folder) else settings.checkpoint,
        checkpoint_digest=checkpoint.digest,
        protocol=protocol.name,
        device=device,
        dtype=settings.dtype,
        batch_size=settings.batch_size,  # type: ignore[arg-type]
        keep_distribution=keep_distribution,
        actors_per_node=settings.actors or 1,
    )


def _rows_of(dataset: Dataset) -> Iterator[dict[str, Any]]:
    from jobs.cluster import own_errors

    with own_errors():
        yield from dataset.iter_rows()


class _Clock:
    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self, record: RunRecord, phase: str) -> None:
        now = time.monotonic()
        record.seconds[phase] = round(now - self._last, 3)
        self._last = now
