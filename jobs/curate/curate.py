"""A store of scores → the rows worth training on, and the rows that each condition removed.

    scored rows → filters → duplicates → the best → a sample → output

The order is always this one, whatever the order of the options. Filters look at a row by itself; of duplicates the best
that passed them stays; the best are chosen among what is different; a sample is drawn from those.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa

from artimuse_actor.errors import StoreError, UsageError
from artimuse_actor.fetch.options import FetchOptions
from jobs.code_identity import CODE_VERSION
from jobs.curate.bursts import keep_best_of_bursts, read_best_of
from jobs.curate.candidates import CHOSEN_SCORES, HELD, PLACE, Candidates, ManifestRows, StoreRows
from jobs.curate.duplicates import drop_duplicates, read_dedupe
from jobs.curate.filters import Filter, FilterOptions, read_filters, scored_rows
from jobs.curate.funnel import Funnel, curation_json
from jobs.curate.order import SCORE, STORE, BestFirst, read_order
from jobs.curate.output_place import Target, read_target, workshop
from jobs.curate.output_rows import OutputOptions, write_chosen
from jobs.curate.quotas import MAX_SEED, best_rows, random_points, read_top, shares_of_sample, stratum
from jobs.curate.sample_keys import NUMBER, SOURCE, check_keys, read_keys
from jobs.curate.scorers import WithScorers, read_scorers
from jobs.curate.tar_size import TarSize
from jobs.curate.where import MACROS, unknown_column
from jobs.manifest.manifest import ManifestOptions
from jobs.manifest.source import open_manifest
from jobs.storage.parquet import parquet_bytes
from jobs.store.database import MAX_TIMEOUT_S, Database, identifier, open_database
from jobs.store.layout import CURATIONS
from jobs.store.run_record import printable_argument
from jobs.store.store import Store, keep_out_of_stores
from jobs.store.stores import Stores
from schemas.curation import CURATION_MARK

_CHOSEN_IMAGES: Final = f"SELECT image_id, uri FROM {CHOSEN_SCORES} ORDER BY chosen.row"
_ABSENT: Final = -1
_DOUBLED: Final = -2
"""Why a row is not chosen, beside the number of a filter."""


@dataclass(frozen=True)
class CurateSettings:
    """Everything a curation depends on except the store's content.

    Attributes:
        store: the --out of runs, or a pattern of several.
        out: file or folder to write.
        manifest: rows to choose from, with columns of their own; None for all of the store.
        manifest_options: how it is read.
        filters: conditions on single rows.
        timeout_s: seconds that the filters may take.
        score_column: which score counts; None for the protocol's first.
        dedupe: `exact`, `near` or None.
        distance: bits between near-duplicates; None goes by how many images there are.
        best_of: `burst` or None.
        within_s: time between two pictures of a burst; None for the usual.
        top: a share such as `10%`, or a number, of the best.
        per: column within whose groups `top` counts.
        sample: how many are drawn.
        seed: which sample.
        kind: of the output; None goes by its name.
        copy: whether the images are copied.
        tar_size: of the files of a WebDataset: images, or bytes such as `1GB`.
        keys: names of its samples: `number` or `source`.
        caption: the column that is their `txt`.
        order: of the rows: `store` or `score`.
        fetch: how images are fetched.
        beside: further stores to choose from, and as `prefix=OUT` those whose scores are beside them, see `scorers`.
        allow_mixed: whether their fingerprints may differ.
    """

    store: str
    out: str
    manifest: str | None = None
    manifest_options: ManifestOptions = field(default_factory=ManifestOptions)
    filters: FilterOptions = field(default_factory=FilterOptions)
    timeout_s: float = 3600.0
    score_column: str | None = None
    dedupe: str | None = None
    distance: int | None = None
    best_of: str | None = None
    within_s: float | None = None
    top: str | None = None
    per: str | None = None
    sample: int | None = None
    seed: int = 0
    kind: str | None = None
    copy: bool = False
    tar_size: str | None = None
    keys: str = NUMBER
    caption: str | None = None
    order: str = STORE
    fetch: FetchOptions = field(default_factory=FetchOptions)
    beside: tuple[str, ...] = ()
    allow_mixed: bool = False

    @property
    def named(self) -> str:
        """The stores as the user named them."""
        return ", ".join((self.store, *self.beside))


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
    output = _output_options(settings, target)
    order = read_order(settings.order)
    dedupe = read_dedupe(settings.dedupe, settings.distance)
    within_s = read_best_of(settings.best_of, settings.within_s)
    named, scorers = read_scorers([settings.store, *settings.beside])
    stores = Stores.open(named, allow_mixed=settings.allow_mixed)
    score_column = stores.first.question("--score-column", settings.score_column)
    _check_choice(settings, stores, target)
    with open_database() as database:
        store_rows = StoreRows(stores, database, settings.filters.text_matches)
        manifest = None
        if settings.manifest:
            manifest = open_manifest(settings.manifest, settings.manifest_options, settings.fetch, stores.first.place)
        candidates: Candidates = ManifestRows(store_rows, manifest, database) if manifest else store_rows
        beside = WithScorers(candidates, scorers, stores.first.questions, database) if scorers else None
        candidates = beside or candidates
        schema = candidates.schema
        filters = [scored_rows(score_column), *read_filters(settings.filters, score_column, schema)]
        if settings.per is not None and settings.per not in schema.names:
            raise unknown_column("--per", settings.per, schema.names)
        if output.caption is not None and output.caption not in schema.names:
            raise unknown_column("--caption", output.caption, schema.names)
        keep_out_of_stores(settings.out)
        target.check_free()
        database.lock()

        funnel = Funnel(settings.manifest or settings.named)
        for name, store in zip(stores.names, stores.stores, strict=True):
            if mixture := store.fingerprint.mixture:
                funnel.notes.append(f"The precisions of the scores in {name} are {mixture}.")
        funnel.notes += store_rows.tables.pass_over_doubles(settings.manifest_options.on_duplicate)
        funnel.notes += beside.notes() if beside else []
        _apply(database, candidates, filters, funnel, score_column, settings.per, settings.timeout_s)
        if manifest:
            _note_others(database, settings, funnel)
            funnel.notes += manifest.notes
        found = [drop_duplicates(database, dedupe)] if dedupe else []
        found += [keep_best_of_bursts(database, within_s)] if within_s is not None else []
        for one in found:
            funnel.remove(one.name, len(one.table))
            funnel.notes += one.notes
        groups = pa.concat_tables([one.table for one in found]) if found else None
        if settings.top is not None:
            _take_top(database, settings, funnel)
        if settings.sample is not None:
            _take_sample(database, settings, funnel)

        if output.keys == SOURCE:
            check_keys(lambda: database.batches(_CHOSEN_IMAGES))

        with workshop(target) as aside:
            if groups is not None and len(groups):
                with open(aside.path(target.groups), "wb") as file:
                    file.write(parquet_bytes(groups))
            chosen = BestFirst(candidates, database) if order == SCORE else candidates
            write_chosen(chosen, stores.first, aside, settings.fetch, output, funnel)
            store_rows.tables.check_unchanged()
            if beside:
                beside.check_unchanged()
            record = _record(settings, stores, target, funnel, None if groups is None else len(groups))
            with open(aside.path(target.funnel), "w", encoding="utf-8") as text:
                text.write(record)
            aside.publish()
        written = json.loads(record)
        if len(stores.stores) == 1:  # several have the record beside the output alone
            _remember(stores.first, written, funnel)
        return Curation(funnel, target, written)


def _output_options(settings: CurateSettings, target: Target) -> OutputOptions:
    """The options about tar files. Raises UsageError."""
    options = OutputOptions(TarSize.read(settings.tar_size), read_keys(settings.keys), settings.caption)
    for name, given in (
        ("--tar-size", settings.tar_size is not None),
        ("--keys source", settings.keys == SOURCE),
        ("--caption", settings.caption is not None),
    ):
        if given and target.kind != "webdataset":
            raise UsageError(f"{name} is about tar files. Add --as webdataset.")
    return options


def _check_choice(settings: CurateSettings, stores: Stores, target: Target) -> None:
    """Raise UsageError for options that do not go together, before anything is read."""
    if settings.top is not None:
        read_top(settings.top)
    elif settings.per is not None:
        raise UsageError("--per says within which groups --top counts. Add --top, such as --top 10%.")
    if not 0 < settings.timeout_s < MAX_TIMEOUT_S:
        raise UsageError(f"--timeout takes a number of seconds above 0, not {settings.timeout_s:g}.")
    if settings.sample is not None and settings.sample < 1:
        raise UsageError(f"--sample takes a whole number from 1, not {settings.sample}.")
    if not 0 <= settings.seed < MAX_SEED:
        raise UsageError(f"--seed takes a whole number from 0 to {MAX_SEED - 1}, not {settings.seed}.")
    reads_images = settings.copy or target.kind == "webdataset" or settings.manifest is not None
    if settings.fetch.root is not None and not reads_images:
        raise UsageError("--root is about images that are read. Add --copy or --as webdataset.")
    if settings.filters.text_matches is not None and not stores.text_columns:
        raise UsageError(f"--text-matches: {settings.named} has no texts. Score with --texts first.")


def _apply(
    database: Database,
    candidates: Candidates,
    filters: Sequence[Filter],
    funnel: Funnel,
    score_column: str,
    per: str | None,
    timeout_s: float,
) -> None:
    """Make the table `chosen` of the rows that meet all conditions; one that fails several is counted by the first.

    Raises:
        CurationError: there are none.
        UsageError: a condition fails on a row, or they take more time or memory than they may.
    """
    names = frozenset({score_column.lower(), *([per.lower()] if per else [])}.union(*(one.names for one in filters)))
    cases = " ".join(f"WHEN NOT coalesce({one.sql}, false) THEN {number}" for number, one in enumerate(filters))
    for macro in MACROS:
        database.run(macro)
    rows = candidates.sql(names)
    with _timed(timeout_s), database.limited(timeout_s), candidates.explained():
        database.run(
            f"CREATE TABLE judged AS SELECT {PLACE} AS row, {HELD} AS held, {identifier(score_column)} AS points, "
            f"{identifier(per) if per else 'NULL'} AS grp, "
            f"CASE WHEN {HELD} IS NULL THEN {_ABSENT} {cases} END AS failed FROM ({rows})"
        )
    if candidates.own is not None:  # whose ids may come again: the first row counts
        database.run(
            f"UPDATE judged SET failed = {_DOUBLED} FROM (SELECT held, min(row) AS first FROM judged "
            "WHERE held IS NOT NULL GROUP BY held HAVING count(*) > 1) AS doubled "
            "WHERE judged.held = doubled.held AND judged.row > first"
        )
    removed = dict(database.rows("SELECT failed, count(*) FROM judged GROUP BY failed"))
    database.run("CREATE TABLE chosen AS SELECT row, held, points, grp FROM judged WHERE failed IS NULL")
    funnel.rows = sum(removed.values())
    if candidates.own is not None:
        funnel.remove("not in the store", removed.get(_ABSENT, 0))
        if _DOUBLED in removed:
            funnel.remove("doubled image_id", removed[_DOUBLED])
    for number, one in enumerate(filters):
        funnel.remove(one.name, removed.get(number, 0))


@contextmanager
def _timed(timeout_s: float) -> Iterator[None]:
    """Say which option allows more time."""
    try:
        yield
    except UsageError as error:
        if "longer than" in error.message:
            error = UsageError(
                f"The conditions on rows take longer than {timeout_s:g} s. Nothing was written. Allow more with "
                "--timeout."
            )
        raise error


def _note_others(database: Database, settings: CurateSettings, funnel: Funnel) -> None:
    """Note the rows of the store that the manifest lacks."""
    ((stored, others),) = database.rows(
        "SELECT count(*), count(*) - (SELECT count(DISTINCT held) FROM judged) FROM scores"
    )
    if others:
        funnel.notes.append(f"{others:,} of {stored:,} rows of {settings.named} are not in {settings.manifest}.")


def _take_top(database: Database, settings: CurateSettings, funnel: Funnel) -> None:
    assert settings.top is not None
    top = read_top(settings.top)
    ((groups,),) = database.rows("SELECT count(*) FROM (SELECT DISTINCT grp FROM chosen)")
    removed = _keep(database, best_rows(database, "chosen", top.places))
    funnel.remove(f"--top {top.text}" + (f" --per {settings.per}" if settings.per else ""), removed)
    if settings.per:
        funnel.notes.append(f"{settings.per} has {groups:,} groups.")


def _take_sample(database: Database, settings: CurateSettings, funnel: Funnel) -> None:
    size, before = settings.sample or 0, funnel.left
    points: Callable[[Any], Any] = lambda ids: pa.array(random_points(ids, settings.seed))  # noqa: E731
    database.add_function("random_points", points, "VARCHAR", "DOUBLE")
    database.run(
        f"CREATE TABLE drawn AS SELECT chosen.row, chosen.held, {stratum('chosen.points')} AS grp, "
        f"random_points(image_id) AS points FROM {CHOSEN_SCORES}"
    )
    counts = database.rows("SELECT grp, count(*) FROM drawn GROUP BY grp ORDER BY grp")
    shares = shares_of_sample(size, np.array([count for _, count in counts]))
    cases = " ".join(f"WHEN {one} THEN {places}" for (one, _), places in zip(counts, shares, strict=True))
    removed = _keep(database, best_rows(database, "drawn", f"CASE grp {cases} END"))
    if before < size:
        funnel.notes.append(f"--sample {size}: there were only {before:,} rows left to draw from, and all are taken.")
    funnel.remove(f"--sample {size} --seed {settings.seed}", removed)


def _keep(database: Database, rows: str) -> int:
    """Keep only these of the chosen rows; returns the number of the others."""
    count = "SELECT count(*) FROM chosen"
    ((before,),) = database.rows(count)
    database.run(f"CREATE OR REPLACE TABLE chosen AS SELECT * FROM chosen SEMI JOIN ({rows}) AS kept USING (row)")
    ((after,),) = database.rows(count)
    return int(before - after)


def _record(settings: CurateSettings, stores: Stores, target: Target, funnel: Funnel, groups: int | None) -> str:
    """The JSON that stands beside the output, and in the store."""
    arguments = {name: printable_argument(value) for name, value in asdict(settings).items() if name != "fetch"}
    roots = [store.place.root for store in stores.stores]
    about = ({"root": roots[0]} if len(roots) == 1 else {"roots": roots}) | {
        "fingerprint": asdict(stores.first.fingerprint)
    }
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
