"""A store of scores → the rows worth training on, and the rows that each condition removed.

    scored rows → filters → duplicates → the best → a sample → output

The order is always this one, whatever the order of the options. Filters look at a row by itself; of duplicates the best
that passed them stays; the best are chosen among what is different; a sample is drawn from those.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from artimuse_actor.errors import StoreError, UsageError
from artimuse_actor.fetch.options import FetchOptions
from jobs.code_identity import CODE_VERSION
from jobs.curate.candidates import Candidates, ManifestRows, StoreRows
from jobs.curate.duplicates import drop_duplicates, read_dedupe
from jobs.curate.filters import TEXT_MATCHES, Filter, FilterOptions, read_filters, scored_rows
from jobs.curate.funnel import Funnel, curation_json
from jobs.curate.output_place import Target, read_target, workshop
from jobs.curate.output_rows import write_chosen
from jobs.curate.quotas import MAX_SEED, GroupNumbers, Quotas, random_points, read_top, shares_of_sample, strata
from jobs.curate.where import unknown_column
from jobs.manifest.manifest import ManifestOptions
from jobs.manifest.source import open_manifest
from jobs.storage.parquet import parquet_bytes
from jobs.store.layout import CURATIONS, SCORES, TEXTS
from jobs.store.store import Store
from schemas.curation import CURATION_MARK


@dataclass(frozen=True)
class CurateSettings:
    """Everything a curation depends on except the store's content.

    Attributes:
        store: the --out of runs.
        out: file or folder to write.
        manifest: rows to choose from, with columns of their own; None for all of the store.
        manifest_options: how it is read.
        filters: conditions on single rows.
        score_column: which score counts; None for the protocol's first.
        dedupe: `exact`, `near` or None.
        distance: bits between near-duplicates; None goes by how many images there are.
        top: a share such as `10%`, or a number, of the best.
        per: column within whose groups `top` counts.
        sample: how many are drawn.
        seed: which sample.
        kind: of the output; None goes by its name.
        copy: whether the images are copied.
        fetch: how images are fetched.
    """

    store: str
    out: str
    manifest: str | None = None
    manifest_options: ManifestOptions = field(default_factory=ManifestOptions)
    filters: FilterOptions = field(default_factory=FilterOptions)
    score_column: str | None = None
    dedupe: str | None = None
    distance: int | None = None
    top: str | None = None
    per: str | None = None
    sample: int | None = None
    seed: int = 0
    kind: str | None = None
    copy: bool = False
    fetch: FetchOptions = field(default_factory=FetchOptions)


@dataclass(frozen=True)
class Curation:
    """The result of a curation.

    Attributes:
        funnel: rows by step.
        target: where they are.
        record: the JSON beside them.
    """

    funnel: Funnel
    target: Target
    record: dict[str, Any]


def curate(settings: CurateSettings) -> Curation:
    """Choose rows, write them, and say what was removed.

    Raises:
        UsageError: an option is not valid here.
        CurationError: nothing is left, or the output would replace files that are not a curation's.
        StoreError, ManifestError: a file is incomplete, or changed during the curation.
    """
    target = read_target(settings.out, settings.kind, settings.copy)
    dedupe = read_dedupe(settings.dedupe, settings.distance)
    store = Store.open(settings.store)
    score_column = store.question("--score-column", settings.score_column)
    _check_choice(settings, store)
    store_rows = StoreRows(store, settings.filters.text_matches)
    candidates: StoreRows | ManifestRows = store_rows
    schema = _schema(store_rows, settings)
    filters = [scored_rows(score_column), *read_filters(settings.filters, score_column, schema)]
    if settings.per is not None and settings.per not in schema.names:
        raise unknown_column("--per", settings.per, schema.names)
    _keep_out_of_tables(target, store)
    target.check_free()

    funnel = Funnel(settings.manifest or settings.store, sum(store_rows.chosen.sizes))
    if mixture := store.fingerprint.mixture:
        funnel.notes.append(f"The precisions of the scores in {settings.store} are {mixture}.")
    if settings.manifest is not None:
        candidates = _join_manifest(store_rows, settings, funnel)
    _apply(candidates, filters, funnel)
    groups = None
    if dedupe:
        groups = drop_duplicates(candidates, dedupe, score_column)
        funnel.remove(groups.name, len(groups.table))
        funnel.notes += groups.notes
    if settings.top is not None:
        _take_top(candidates, settings, score_column, funnel)
    if settings.sample is not None:
        _take_sample(candidates, settings, score_column, funnel)

    with workshop(target) as aside:
        if groups and len(groups.table):
            with open(aside.path(target.groups), "wb") as file:
                file.write(parquet_bytes(groups.table))
        write_chosen(candidates, store, aside, settings.fetch, funnel)
        store_rows.check_unchanged()
        record = _record(settings, store, target, funnel, len(groups.table) if groups else None)
        with open(aside.path(target.funnel), "w", encoding="utf-8") as text:
            text.write(record)
        aside.publish()
    written = json.loads(record)
    _remember(store, written, funnel)
    return Curation(funnel, target, written)


def _keep_out_of_tables(target: Target, store: Store) -> None:
    """Raise UsageError for an output that readers of the store would take for rows of it."""
    for table in (SCORES, TEXTS):
        if f"{target.place.root}/".startswith(f"{store.place.uri(table)}/"):
            raise UsageError(f"--out {target.out}: lies in a table of the store. Choose another place.")


def _check_choice(settings: CurateSettings, store: Store) -> None:
    """Raise UsageError for options that do not go together, before anything is read."""
    if settings.top is not None:
        read_top(settings.top)
    elif settings.per is not None:
        raise UsageError("--per says within which groups --top counts. Add --top, such as --top 10%.")
    if settings.sample is not None and settings.sample < 1:
        raise UsageError(f"--sample takes a whole number from 1, not {settings.sample}.")
    if not 0 <= settings.seed < MAX_SEED:
        raise UsageError(f"--seed takes a whole number from 0 to {MAX_SEED - 1}, not {settings.seed}.")
    if settings.filters.text_matches is not None and not store.texts:
        raise UsageError(f"--text-matches: {settings.store} has no texts. Score with --texts first.")


def _schema(store_rows: StoreRows, settings: CurateSettings) -> pa.Schema:
    """All columns that conditions can be about."""
    fields = [field for field in store_rows.schema if field.name != TEXT_MATCHES]
    if settings.manifest is not None:
        own = open_manifest(settings.manifest, settings.manifest_options).columns()
        names = {field.name for field in fields}
        fields += [
            field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
            for field in own
            if field.name not in names
        ]
    return pa.schema(fields)


def _join_manifest(store_rows: StoreRows, settings: CurateSettings, funnel: Funnel) -> ManifestRows:
    assert settings.manifest is not None
    manifest = open_manifest(settings.manifest, settings.manifest_options)
    candidates = ManifestRows(store_rows, manifest)
    stored, funnel.rows = funnel.rows, sum(candidates.chosen.sizes)
    funnel.remove("not in the store", candidates.not_in_store)
    if candidates.doubled:
        funnel.remove("doubled image_id", candidates.doubled)
    others = stored - len(candidates.chosen)
    if others:
        funnel.notes.append(f"{others:,} of {stored:,} rows of {settings.store} are not in {settings.manifest}.")
    funnel.notes += manifest.notes
    return candidates


def _apply(candidates: Candidates, filters: Sequence[Filter], funnel: Funnel) -> None:
    """Keep the rows that meet all conditions; one that fails several is counted by the first."""
    columns = list(dict.fromkeys(name for one in filters for name in one.columns))
    removed = [0] * len(filters)
    for batch, rows in candidates.scan(columns):
        kept = np.ones(len(rows), dtype=bool)
        for number, one in enumerate(filters):
            still = kept & np.asarray(one.keeps(rows), dtype=bool)
            removed[number] += int(kept.sum() - still.sum())
            kept = still
        candidates.chosen.narrow(batch, kept)
    for one, count in zip(filters, removed, strict=True):
        funnel.remove(one.name, count)


def _take_top(candidates: Candidates, settings: CurateSettings, score_column: str, funnel: Funnel) -> None:
    assert settings.top is not None
    top, numbers, quotas = read_top(settings.top), GroupNumbers(), Quotas()
    columns = [score_column, *([settings.per] if settings.per else [])]

    def ranked(rows: pa.Table) -> tuple[Any, Any]:
        points = rows[score_column].to_numpy().astype(np.float64)
        return (numbers.of(rows[settings.per]) if settings.per else np.zeros(len(rows), dtype=np.int64)), points

    before = len(candidates.chosen)
    for _, rows in candidates.scan(columns):
        quotas.count(*ranked(rows))
    quotas.settle(top.places)
    _choose(candidates, quotas, columns, ranked)
    name = f"--top {top.text}" + (f" --per {settings.per}" if settings.per else "")
    funnel.remove(name, before - len(candidates.chosen))
    if settings.per:
        funnel.notes.append(f"{settings.per} has {len(numbers.values):,} groups.")


def _take_sample(candidates: Candidates, settings: CurateSettings, score_column: str, funnel: Funnel) -> None:
    size, quotas, before = settings.sample or 0, Quotas(), len(candidates.chosen)
    columns = [score_column, "image_id"]

    def ranked(rows: pa.Table) -> tuple[Any, Any]:
        scores = rows[score_column].to_numpy().astype(np.float64)
        return strata(scores), random_points(rows["image_id"], settings.seed)

    for _, rows in candidates.scan(columns):
        quotas.count(*ranked(rows))
    quotas.settle(lambda counts: shares_of_sample(size, counts))
    _choose(candidates, quotas, columns, ranked)
    if before < size:
        funnel.notes.append(f"--sample {size}: there were only {before:,} rows left to draw from, and all are taken.")
    funnel.remove(f"--sample {size} --seed {settings.seed}", before - len(candidates.chosen))


def _choose(candidates: Candidates, quotas: Quotas, columns: list[str], ranked: Any) -> None:
    chosen, places = candidates.chosen, []
    for batch, rows in candidates.scan(list(dict.fromkeys([*columns, "image_id"]))):
        here = chosen.places(batch)
        groups, points = ranked(rows)
        taken = quotas.choose(groups, points, rows["image_id"], here)
        places.append(here[taken])
    chosen.keep(np.sort(np.concatenate([quotas.last_places(), *places])))


def _record(settings: CurateSettings, store: Store, target: Target, funnel: Funnel, groups: int | None) -> str:
    """The JSON that stands beside the output, and in the store."""
    arguments = {name: value for name, value in asdict(settings).items() if name != "fetch"}
    about = {"root": store.place.root, "fingerprint": asdict(store.fingerprint)}
    files = {"rows": None if target.kind == "webdataset" else target.name, "groups": target.groups if groups else None}
    output = {"place": target.place.root, "kind": target.kind, "files": files, "duplicates": groups}
    return curation_json(arguments, about, funnel, output)


def _remember(store: Store, record: dict[str, Any], funnel: Funnel) -> None:
    """Write the record into the store, for reports; the store may be read-only for us."""
    made = {**record, "created": datetime.now(UTC).isoformat(timespec="seconds"), "code_version": CODE_VERSION}
    path = f"{CURATIONS}/{record[CURATION_MARK]}.json"
    try:
        store.place.write(path, json.dumps(made, indent=1, ensure_ascii=False).encode())
    except StoreError as error:
        funnel.notes.append(f"The store has no note of this curation: {error}")
