"""Scores as XMP sidecars, written beside the pictures, and taken back."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pyarrow as pa

from artimuse_actor.errors import UsageError
from artimuse_actor.uris import local_path, uri_scheme
from jobs.export.kind import Exported, ExportSettings
from jobs.export.rows import StoresRows, open_rows
from jobs.export.xmp.journal import Journal
from jobs.export.xmp.naming import AUTO, ENDING, STEM, Folders, below, check_naming
from jobs.export.xmp.packet import legal
from jobs.export.xmp.sidecar import Change, Wanted, change, taken_back
from jobs.export.xmp.stars import DEFAULT, Stars, stars_of
from jobs.export.xmp.work import Work
from jobs.store.database import identifier, quoted
from jobs.store.run_record import new_run_id
from jobs.store.stores import Stores

OPTIONS: Final = (
    *("stars", "reject_below", "texts_as", "naming", "sidecar_dir", "score_column"),
    *("overwrite", "dry_run", "undo"),
)
_SLICE_ROWS: Final = 4_096
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


def write(stores: Stores, settings: ExportSettings) -> Exported:
    """Write the sidecars that change, or take back what earlier exports wrote.

    Raises:
        UsageError: an option is not valid here.
    """
    options = Options(**settings.own)
    if settings.out is not None:
        raise UsageError("--as xmp writes beside the pictures. Leave --out out, or say --sidecar-dir.")
    work = Work(Journal(stores.first.place, new_run_id()), dry_run=options.dry_run, undo=options.undo)
    if options.undo:
        entries = work.journal.entries()
        others = {entry.after: entry for written in reversed(entries.values()) for entry in reversed(written)}
        work.do(partial(taken_back, path, written, others) for path, written in entries.items())
        if not options.dry_run:
            work.journal.keep({path: written for path, written in entries.items() if path not in work.settled})
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
            "row_number() OVER (PARTITION BY coalesce(uri, image_id) ORDER BY image_id) AS nth FROM "
            f"(SELECT *, regexp_replace(coalesce(uri, image_id), {quoted(ENDING)}, '') AS stem FROM rows)) "
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
            is_file = uri is not None and uri_scheme(uri) == "file" and "#bytes=" not in uri
            picture = os.path.abspath(local_path(uri)) if is_file else ""
            if self._options.naming == STEM and (row["is_shared"] or (is_file and folders.is_shared(picture))):
                self.skipped["whose a.xmp may be another picture's"] += 1
                continue
            if is_file:
                path = folders.sidecar_of(picture, is_shared=row["is_shared"])
                if path is None:
                    self.skipped["whose pictures are gone"] += 1
                    continue
            elif self._options.sidecar_dir is not None:
                path = below(self._options.sidecar_dir, row["image_id"])
                if path is None:
                    self.skipped["whose ids are no paths within a folder"] += 1
                    continue
            else:
                self.skipped["whose pictures are not files on this machine"] += 1
                continue
            self._ids[path] = row["image_id"], wanted
            yield partial(change, path, wanted, overwrite=self._options.overwrite)

    def elsewhere(self, path: str) -> Callable[[], Change] | None:
        """The change of a sidecar that cannot be written beside its picture; None if there is no folder for it."""
        folder = self._options.sidecar_dir
        image_id, wanted = self._ids[path]
        other = below(folder, image_id) if folder is not None else None
        if other is None or other == path:
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


def _title(field: pa.Field, name: str) -> str:
    title: bytes = (field.metadata or {}).get(b"doc", name.encode())
    return title.decode()
