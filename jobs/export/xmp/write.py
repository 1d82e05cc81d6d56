"""Scores as XMP sidecars, written beside the pictures, and taken back."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final

import pyarrow as pa

from artimuse_actor.errors import UsageError
from artimuse_actor.uris import local_path, uri_scheme
from jobs.export.kind import Exported, ExportSettings
from jobs.export.rows import StoresRows, open_rows
from jobs.export.xmp.journal import Journal
from jobs.export.xmp.naming import AUTO, STEM, Folders, below, check_naming
from jobs.export.xmp.packet import legal
from jobs.export.xmp.sidecar import Change, SidecarError, Wanted, change, taken_back
from jobs.export.xmp.stars import DEFAULT, Stars, stars_of
from jobs.storage.place import READ_THREADS
from jobs.store.database import identifier, quoted
from jobs.store.run_record import new_run_id
from jobs.store.stores import Stores
from jobs.words import by_count

OPTIONS: Final = (
    *("stars", "reject_below", "texts_as", "naming", "sidecar_dir", "score_column"),
    *("overwrite", "dry_run", "undo"),
)
_SLICE_ROWS: Final = 4_096
_STEM: Final = quoted(r"\.[^./]*$")
_AS_DESCRIPTION, _AS_OURS = "description", "own"


@dataclass(frozen=True)
class Options:
    """Options of this kind of export.

    Attributes:
        stars: thresholds of stars, see `jobs.export.xmp.stars`.
        reject_below: scores below are rejected.
        texts_as: `description`, `own` or None: where texts go.
        naming: see `jobs.export.xmp.naming`.
        sidecar_dir: where sidecars go that cannot be beside their pictures; None for nowhere.
        score_column: which score counts; None for the protocol's first.
        overwrite: whether ratings and descriptions of people are replaced.
        dry_run: whether nothing is written.
        undo: whether earlier exports are taken back.
    """

    stars: str = DEFAULT
    reject_below: float | None = None
    texts_as: str | None = None
    naming: str = AUTO
    sidecar_dir: str | None = None
    score_column: str | None = None
    overwrite: bool = False
    dry_run: bool = False
    undo: bool = False

    def __post_init__(self) -> None:
        check_naming(self.naming)
        if self.texts_as not in (None, _AS_DESCRIPTION, _AS_OURS):
            raise UsageError(f"--texts-as takes description or own, not {self.texts_as!r}.")


@dataclass(frozen=True)
class Written(Exported):
    """The result, in numbers of sidecars.

    Attributes:
        unchanged: that were as they should be.
        kept: of all, those in which a person's rating stayed.
        skipped: reason → sidecars that were not written.
        diff: what changes, for people; only of a dry run.
        is_undo: whether an export was taken back.
    """

    unchanged: int = 0
    kept: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    diff: tuple[str, ...] = ()
    is_undo: bool = False
    dry_run: bool = False

    def lines(self) -> list[str]:
        """For people."""
        done = ("would be " if self.dry_run else "") + ("taken back" if self.is_undo else "written")
        line = f"{self.out}: {self.files:,} sidecars {done}, {self.unchanged:,} are as they should be"
        line += f"; {self.kept:,} have a person's rating, which stays" if self.kept else ""
        lines = [*self.notes, *self.diff, f"{line}."]
        return [*lines, f"  left out: {by_count(self.skipped)}."] if self.skipped else lines

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {**asdict(self), "diff": list(self.diff)}


def write(stores: Stores, settings: ExportSettings) -> Exported:
    """Write the sidecars that change, or take back what earlier exports wrote.

    Raises:
        UsageError: an option is not valid here.
    """
    options = Options(**settings.own)
    if settings.out is not None:
        raise UsageError("--as xmp writes beside the pictures. Leave --out out, or say --sidecar-dir.")
    work = _Work(Journal(stores.first.place, new_run_id()), options)
    if options.undo:
        entries = work.journal.entries()
        work.do(partial(taken_back, path, written) for path, written in entries.items())
        if not options.dry_run and not work.skipped:
            work.journal.delete()
        return work.result(str(stores), len(entries))
    if options.texts_as is not None and not stores.text_columns:
        raise UsageError(f"--texts-as: {stores} has no texts. Make them with artimuse score --texts, or leave it out.")
    with open_rows(stores, settings.on_duplicate) as rows:
        question = options.score_column or stores.first.questions[0]
        if question not in stores.first.questions:
            raise UsageError(f"--score-column takes {', '.join(stores.first.questions)}, not {question!r}.")
        stars = stars_of(options.stars, options.reject_below, rows.database, question)
        pictures = _Pictures(stores, rows, options, stars, question)
        for some in pictures.slices():
            work.do(some, elsewhere=pictures.elsewhere)
        rows.check_unchanged()
        work.skipped += pictures.skipped
        return work.result(str(stores), pictures.count, tuple(rows.notes))


class _Pictures:
    """The pictures with a score, as functions that make their changes."""

    def __init__(self, stores: Stores, rows: StoresRows, options: Options, stars: Stars, question: str) -> None:
        self.count, self.skipped = 0, Counter[str]()
        self._rows, self._options, self._stars, self._question = rows, options, stars, question
        fingerprint = stores.first.fingerprint
        self._checkpoint = f"{fingerprint.checkpoint}@{fingerprint.checkpoint_digest[:12]}"
        self._titles = {name: _title(stores.text_schema.field(name), name) for name in stores.text_columns}
        if options.texts_as is None:
            self._titles = {}
        self._ids: dict[str, tuple[str, Wanted]] = {}

    def slices(self) -> Iterator[list[Callable[[], Change]]]:
        """A few thousand at a time, folder by folder."""
        names = ("image_id", "uri", self._question, f"{self._question}_std", *self._titles)
        columns = ", ".join(map(identifier, names))
        folders = Folders(self._options.naming)
        # Of all rows, failed ones too: a raw file that cannot be scored may own the sidecar `a.xmp`.
        sql = (
            f"SELECT {columns}, sharing > 1 AS is_shared FROM (SELECT *, count(*) OVER (PARTITION BY stem) AS sharing, "
            "row_number() OVER (PARTITION BY uri ORDER BY image_id) AS nth FROM "
            f"(SELECT *, regexp_replace(uri, {_STEM}, '') AS stem FROM rows)) "
            f"WHERE status = 'ok' AND nth = 1 AND {identifier(self._question)} IS NOT NULL ORDER BY uri"
        )
        for batch in self._rows.database.batches(sql):
            for start in range(0, len(batch), _SLICE_ROWS):
                self._ids.clear()
                yield list(self._changes(batch.slice(start, _SLICE_ROWS), folders))

    def _changes(self, rows: pa.RecordBatch, folders: Folders) -> Iterator[Callable[[], Change]]:
        for row in rows.to_pylist():
            self.count += 1
            wanted, uri, path = self._wanted(row), row["uri"], None
            if self._options.naming == STEM and row["is_shared"]:
                self.skipped["whose a.xmp may be another picture's"] += 1
                continue
            if uri is not None and uri_scheme(uri) == "file" and "#bytes=" not in uri:
                path = folders.sidecar_of(os.path.abspath(local_path(uri)), is_shared=row["is_shared"])
                if path is None:
                    self.skipped["whose pictures are gone"] += 1
                    continue
            elif self._options.sidecar_dir is not None:
                path = below(self._options.sidecar_dir, row["image_id"])
            else:
                self.skipped["whose pictures are not files on this machine"] += 1
                continue
            self._ids[path] = row["image_id"], wanted
            yield partial(change, path, wanted, overwrite=self._options.overwrite)

    def elsewhere(self, path: str) -> Callable[[], Change] | None:
        """The change of a sidecar that cannot be written beside its picture; None if there is no folder for it."""
        folder = self._options.sidecar_dir
        image_id, wanted = self._ids[path]
        if folder is None or (other := below(folder, image_id)) == path:
            return None
        return partial(change, other, wanted, overwrite=self._options.overwrite)

    def _wanted(self, row: dict[str, Any]) -> Wanted:
        texts = {name: legal(row[name]) for name in self._titles if row[name]}
        ours = {
            "score": f"{row[self._question]:.4f}",
            "scoreStd": f"{row[f'{self._question}_std']:.4f}",
            "checkpoint": self._checkpoint,
        }
        if self._options.texts_as == _AS_OURS:
            return Wanted(self._stars.rating(row[self._question]), None, ours | texts)
        description = "\n\n".join(f"{self._titles[name]}: {text}" for name, text in texts.items())
        return Wanted(self._stars.rating(row[self._question]), description or None, ours)


class _Work:
    """The sidecars so far."""

    def __init__(self, journal: Journal, options: Options) -> None:
        self.journal, self.skipped = journal, Counter[str]()
        self._options = options
        self._written = self._unchanged = self._kept = 0
        self._diff: list[str] = []

    def do(
        self,
        changes: Iterable[Callable[[], Change]],
        elsewhere: Callable[[str], Callable[[], Change] | None] = lambda _: None,
    ) -> None:
        """Make changes; what cannot be written is tried elsewhere."""
        with ThreadPoolExecutor(READ_THREADS) as pool:
            made = list(pool.map(_result, changes))
            for reason in made:
                if isinstance(reason, str):
                    self.skipped[reason] += 1
            found = [one for one in made if isinstance(one, Change)]
            self._kept += sum(one.keeps_rating for one in found)
            self._unchanged += sum(not one.is_one for one in found)
            todo = [one for one in found if one.is_one]
            if self._options.dry_run:
                self._diff += [line for one in todo for line in one.diff()]
                self._written += len(todo)
                return
            if not self._options.undo:
                self.journal.add([one.entry for one in todo])
            others = []
            for one, reason in zip(todo, pool.map(lambda one: _result(one.write), todo), strict=True):
                if not isinstance(reason, str):
                    self._written += 1
                elif other := elsewhere(one.path):
                    self._kept -= one.keeps_rating
                    others.append(other)
                else:
                    self.skipped[reason] += 1
        if others:
            self.do(others)

    def result(self, out: str, rows: int, notes: tuple[str, ...] = ()) -> Written:
        """The numbers."""
        return Written(
            out=out,
            rows=rows,
            files=self._written,
            notes=notes,
            unchanged=self._unchanged,
            kept=self._kept,
            skipped=dict(self.skipped),
            diff=tuple(self._diff),
            is_undo=self._options.undo,
            dry_run=self._options.dry_run,
        )


def _result(function: Callable[[], Any]) -> Any:
    """What a function returns, or the words of its SidecarError."""
    try:
        return function()
    except SidecarError as error:
        return str(error)


def _title(field: pa.Field, name: str) -> str:
    title: bytes = (field.metadata or {}).get(b"doc", name.encode())
    return title.decode()
