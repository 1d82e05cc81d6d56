"""The precision of a store's rows: one, unless the user wants several.

The same picture has another score in bfloat16 than in float32: of the demo's 60 by 0.06 points on average, 0.4 at most.
So the store's description names the precision of its rows, and a run of another one is refused before it writes a row.
Stores of older versions name none: theirs are those of their runs, and without such a record the next run's.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from artimuse_actor.errors import StoreLocked, StoreMismatch
from jobs.store.layout import STORE_FILE
from jobs.store.plan_progress import PlanProgress
from jobs.store.run_record import read_runs
from jobs.store.store import Store


def stored_precisions(store: Store) -> tuple[str, ...]:
    """The precisions of a store's rows, sorted; empty if they are not known."""
    if store.fingerprint.precision:
        return store.fingerprint.precisions
    return tuple(sorted({run["dtype"] for run in read_runs(store.place) if run.get("dtype") and run["scored_rows"]}))


def refuse_other_precision(store: Store, precision: str) -> None:
    """Refuse rows of another precision than the store's.

    Raises:
        StoreMismatch: the store has rows, and none of this precision; the message names both.
    """
    found = stored_precisions(store)
    if found and precision not in found and _has_rows(store):
        raise StoreMismatch(
            f"{store.place.root} holds rows in {' and '.join(found)}; this run would add rows in {precision}, which "
            "gives the same picture another score. No row was written. "
            f"Use {_options(found[0], precision)} to go on with the store's, choose another --out, or have both side "
            "by side with --allow-mixed."
        )


def admit_precision(store: Store, precision: str, *, allow_mixed: bool = False) -> None:
    """Note in the store's description that it gets rows of this precision; before the first one is written.

    Args:
        store: declared; its lock is this run's.
        precision: of the run's network.
        allow_mixed: whether other rows may be of another precision.

    Raises:
        StoreMismatch: as `refuse_other_precision`, unless `allow_mixed`.
    """
    if not allow_mixed:
        refuse_other_precision(store, precision)
    kept = stored_precisions(store) if _has_rows(store) else ()
    noted = "+".join(sorted({*kept, precision}))
    if noted == store.fingerprint.precision:
        return
    store.fingerprint = replace(store.fingerprint, precision=noted)
    data, version = store.place.read_version(STORE_FILE) or (b"{}", None)
    raw = json.loads(data) | {"fingerprint": asdict(store.fingerprint)}
    if not store.place.swap(STORE_FILE, json.dumps(raw, indent=1).encode(), version):
        raise StoreLocked(
            f"{store.place.uri(STORE_FILE)}: another run has written this file meanwhile. Run again when it has ended."
        )


def _options(stored: str, asked: str) -> str:
    """The options of `artimuse score` for the stored precision, instead of those for the one asked for."""
    dtype, _, quantize = stored.partition("/")
    if quantize:
        return f"--dtype {dtype} --quantize {quantize}"
    return f"--dtype {dtype} without --quantize" if "/" in asked else f"--dtype {dtype}"


def _has_rows(store: Store) -> bool:
    """Whether any row is committed, or staged to be."""
    progress = PlanProgress.current(store)
    return bool(store.table_files().scores) or bool(progress and any(progress.staging.units().values()))
