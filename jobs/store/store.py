"""One output folder: its description and its tables.

`plan_progress` commits shards to it; `layout` has the paths.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from artimuse_actor.errors import StoreError, StoreMismatch, UsageError
from artimuse_actor.protocol.protocols import Protocol
from jobs.code_identity import CODE_VERSION
from jobs.plan.plan import Plan
from jobs.plan.stored_rows import RetryErrors, StoredRows, read_stored_rows
from jobs.storage.parquet import read_parquet
from jobs.storage.place import READ_THREADS, Place, exists
from jobs.storage.places import open_place
from jobs.storage.user_files import is_unicode
from jobs.store.counts import Counts, count_rows
from jobs.store.known_images import KnownRows, write_known_images
from jobs.store.layout import OWN_NAMES, SCORES, STORE_FILE, TEXTS, texts_path
from jobs.store.table_files import TableFile, TableFiles
from jobs.store.text_request import WantedTexts
from schemas.fingerprint import Fingerprint
from schemas.scores import CODE_KEY, FINGERPRINT_KEY, IMAGE, PLAN_KEY, score_fields, scores_schema
from schemas.text_settings import TextSettings
from schemas.texts import MAX_NEW_TOKENS_KEY
from schemas.units import answer_fields

_FORMAT: Final = 1
_SCORE_GROUP_ROWS: Final = 65_536  # each with the statistics by which readers pass over it
_WHOLE: Final = "Put it back as it was, or choose another --out."
_TEXT_GROUP_ROWS: Final = 4_096  # so that reading the texts of a few images does not read those of all


class Store:
    """A store: scores of one fingerprint, in one place."""

    def __init__(
        self,
        place: Place,
        fingerprint: Fingerprint,
        questions: tuple[str, ...],
        keep_distribution: bool,
        texts: TextSettings | None,
    ) -> None:
        """Use `Store.open` or `Store.for_run`."""
        self.place = place
        self.fingerprint = fingerprint
        self.questions = questions
        self.keep_distribution = keep_distribution
        self.texts = texts

    @property
    def copies_scores(self) -> bool:
        """Whether an image takes the score of one with the same bytes: not if each row has a question of its own."""
        return not (self.texts and self.texts.letters)

    @property
    def schema(self) -> pa.Schema:
        """Schema of the scores table."""
        return scores_schema(self.questions, keep_distribution=self.keep_distribution)

    @property
    def answers(self) -> pa.Schema:
        """Schema of the columns that the model fills, in both tables."""
        return pa.schema(answer_fields(self.questions, keep_distribution=self.keep_distribution, texts=self.texts))

    @classmethod
    def open(cls, out: str) -> Store:
        """Open an existing store.

        Raises:
            StoreError: there is none.
        """
        return cls._opened(open_place(out), out)

    @classmethod
    def _opened(cls, place: Place, out: str) -> Store:
        if not (data := _description(place)):
            raise StoreError(f"{out}: is no store of scores (it has no {STORE_FILE}). Name the --out of a run.")
        try:
            raw = json.loads(data)
        except ValueError as error:
            raise StoreError(f"{place.uri(STORE_FILE)}: is not valid JSON: {error}. {_WHOLE}") from error
        try:
            if raw["format"] != _FORMAT:
                written = f"was written in format {raw['format']}, this version reads {_FORMAT}"
                raise StoreError(f"{out}: {written}. Use the version that wrote it.")
            fingerprint = Fingerprint(**raw["fingerprint"])
            texts = raw.get("texts")
            settings = (
                TextSettings(tuple(texts["titles"]), int(texts["max_new_tokens"]), tuple(texts.get("letters", ())))
                if texts
                else None
            )
            return cls(place, fingerprint, tuple(raw["questions"]), bool(raw["keep_distribution"]), settings)
        except (KeyError, TypeError) as error:
            raise StoreError(f"{place.uri(STORE_FILE)}: is not the description of a store. {_WHOLE}") from error

    @classmethod
    def for_run(
        cls,
        out: str,
        fingerprint: Fingerprint,
        protocol: Protocol,
        keep_distribution: bool,
        wanted_texts: WantedTexts | None = None,
        fence: Callable[[], None] | None = None,
    ) -> Store:
        """Open the store that a run writes to; if there is none yet, `declare` creates it.

        If a store has texts, every run adds them, so that each image with a score has its texts.

        Args:
            out: folder or prefix of the store.
            fingerprint: fingerprint of the run's scores.
            protocol: the protocol of the run.
            keep_distribution: whether the run keeps the probabilities of the levels.
            wanted_texts: the texts that the run was asked for.
            fence: called before each change of a file; raises if the run's lock is lost.

        Raises:
            StoreMismatch: it has other scores or texts than this run would make.
            UsageError: it lies among the files of a store, or its name is not UTF-8.
        """
        keep_out_of_stores(out)
        if not is_unicode(out):
            raise UsageError(f"{out}: is no name for a store, since it is not UTF-8. Choose another --out.")
        place = open_place(out).fenced(fence) if fence else open_place(out)
        store = cls(place, fingerprint, tuple(protocol.score_questions), keep_distribution, None)
        if not store.is_declared():
            if store.table_files().scores:
                raise StoreError(
                    f"{out}: holds scores but no {STORE_FILE}: an `artimuse compact` into it was not finished, or it "
                    "is not ours. Run that again, or choose another --out."
                )
        else:
            store = cls._opened(place, out)
            store._refuse_other(fingerprint, keep_distribution)
        texts = wanted_texts.settings(protocol, store.texts) if wanted_texts else store.texts
        if store.texts and texts and store.texts != texts:
            has, asks = (
                (f"of at most {store.texts.max_new_tokens} tokens", f"of at most {texts.max_new_tokens}")
                if store.texts.titles == texts.titles
                else (f"on {', '.join(store.texts.titles)}", f"on {', '.join(texts.titles)}")
            )
            raise StoreMismatch(
                f"{place.root} holds texts {has}; this run would add texts {asks}. Nothing was written. "
                "Choose another --out, or leave out --attributes and --max-new-tokens to go on with the store's."
            )
        store.texts = texts
        return store

    def question(self, option: str, asked: str | None) -> str:
        """The score column that an option names, or the first if it names none.

        Raises:
            UsageError: the store has no such score.
        """
        if not self.questions:
            raise UsageError(
                f"{self.place.root} has answers to multiple-choice questions, and no scores. `artimuse benchmark vqa` "
                "evaluates them."
            )
        if asked is not None and asked not in self.questions:
            near = difflib.get_close_matches(asked, self.questions, n=1, cutoff=0.5)
            meant = f" Did you mean {near[0]}?" if near else ""
            scores = ", ".join(self.questions)
            raise UsageError(f"{option}: {self.place.root} has no score {asked!r}; it has {scores}.{meant}")
        return asked or self.questions[0]

    def is_declared(self) -> bool:
        """Whether there is a store here."""
        return bool(_description(self.place))

    def declare(self) -> None:
        """Write the store's description, unless it is there already; called when the manifest is known to be valid.

        Raises:
            StoreMismatch: another run has meanwhile written a different description.
        """
        raw = {
            "format": _FORMAT,
            "fingerprint": asdict(self.fingerprint),
            "questions": self.questions,
            "keep_distribution": self.keep_distribution,
            "texts": asdict(self.texts) if self.texts else None,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if not self.place.create(STORE_FILE, json.dumps(raw, indent=1).encode()):
            written = Store._opened(self.place, self.place.root)
            written._refuse_other(self.fingerprint, self.keep_distribution)
            if self.texts and not written.texts and (found := self.place.read_version(STORE_FILE)):
                data, version = found
                added = {**json.loads(data), "texts": raw["texts"]}
                self.place.swap(STORE_FILE, json.dumps(added, indent=1).encode(), version)

    def _refuse_other(self, fingerprint: Fingerprint, keep_distribution: bool) -> None:
        if not self.fingerprint.same_scores(fingerprint):
            raise StoreMismatch(
                f"{self.place.root} holds scores of {self.fingerprint}; this run is {fingerprint}. "
                "Nothing was written. Choose another --out, or score with the checkpoint, protocol and options of the "
                "store."
            )
        if keep_distribution and not self.keep_distribution:
            raise StoreMismatch(
                f"{self.place.root} keeps no distributions. Leave out --keep-distribution, or choose another --out."
            )

    def table_files(self) -> TableFiles:
        """List the files of the tables."""
        scores, texts = (
            [file for file in self.place.files(folder) if file.path.endswith(".parquet")] for folder in (SCORES, TEXTS)
        )
        return TableFiles(tuple(scores), {file.path: file for file in texts})

    def wants_retry(self, files: TableFiles, retry: RetryErrors) -> bool:
        """Whether any row of the tables failed and is to be retried."""
        columns = ["status", "error_type", "retryable"]
        paths = [*files.scores_paths, *(sorted(files.texts) if self.texts else ())]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            tables = pool.map(lambda path: read_parquet(self.place, path, columns), paths)
            return any(pc.any(retry.chosen(table)).as_py() for table in tables)

    def stored_rows(
        self, files: TableFiles | None = None, retry: RetryErrors = RetryErrors(), *, texts: bool | None = None
    ) -> StoredRows:
        """Ids and versions of all committed rows, and what they lack.

        Args:
            files: files of the tables; None lists them now.
            retry: which failed rows are retried.
            texts: whether each image with a score is to have texts; by default if the store has texts.

        Raises:
            StoreError: a file is not whole.
        """
        files = files or self.table_files()
        return read_stored_rows(
            self.place,
            files.scores_paths,
            files.texts_beside,
            texts=bool(self.texts) if texts is None else texts,
            retry=retry,
        )

    def write_known_images(self, plan: Plan, files: TableFiles) -> None:
        """Write the digests of images with a score, so that images of the plan with the same bytes copy it."""
        tables = [(path, files.texts_beside(path)) for path in plan.store_files]
        write_known_images(self.place, plan.plan_id, tables, texts=plan.texts)

    def known_rows(self, plan: Plan) -> KnownRows:
        """The rows that can be copied to images of the plan with the same bytes."""
        scores = score_fields(self.questions, keep_distribution=self.keep_distribution)
        return KnownRows(
            place=self.place,
            plan_id=plan.plan_id,
            files=plan.store_files,
            columns=tuple(field.name for field in (*scores, *IMAGE) if field.name != "sha256"),
            text_columns=self.texts.all_columns if self.texts else (),
        )

    def counts(self, files: TableFiles | None = None) -> Counts:
        """Rows of the tables by outcome; without `files` they are listed now."""
        files = files or self.table_files()
        return count_rows(self.place, [(path, files.texts_beside(path)) for path in files.scores_paths])

    def write_tables(self, path: str, scores: pa.Table, texts: pa.Table | None, made_by: str) -> None:
        """Write a scores file, and before it the texts file beside it if there are texts, whatever was there.

        Raises:
            StoreLocked: another run writes one of them at the same time.
        """
        described = None if texts is None else (TableFile.unread(self.place, texts_path(path)), texts)
        self.replace_tables((TableFile.unread(self.place, path), scores), described, made_by)

    def replace_tables(
        self,
        scores: tuple[TableFile, pa.Table] | None,
        texts: tuple[TableFile, pa.Table] | None,
        made_by: str,
        *,
        texts_last: bool = False,
    ) -> None:
        """Write a texts file and then the scores file beside it, each with its new rows; None leaves a file as it is.

        With `texts_last` the other way round: the last one says that both are written.

        Raises:
            StoreLocked: another run has written one of them since it was read.
        """
        made: dict[Any, Any] = {
            FINGERPRINT_KEY: self.fingerprint.to_json(),
            PLAN_KEY: made_by,
            CODE_KEY: CODE_VERSION,
        }
        limit = {MAX_NEW_TOKENS_KEY: str(self.texts.max_new_tokens)} if self.texts else {}
        writes = [(texts, limit, _TEXT_GROUP_ROWS), (scores, {}, _SCORE_GROUP_ROWS)]
        for changed, also, row_group_rows in reversed(writes) if texts_last else writes:
            if changed is not None:
                file, rows = changed
                file.replace(rows, {**rows.schema.metadata, **made, **also}, row_group_rows)


def _description(place: Place) -> bytes:
    """The content of the store's description; empty if there is none."""
    try:
        return place.read(STORE_FILE)
    except FileNotFoundError:
        return b""


def keep_out_of_stores(out: str) -> None:
    """Refuse an output among the files of a store, whose readers would take it for rows, or lose the store.

    Raises:
        UsageError: it lies in a table of a store, or is called like a file of its own.
    """
    root = open_place(out).root
    bucket, _, path = root.rpartition("://") if "://" in root else ("", "", root)
    parts = path.split("/")
    for depth in range(1, len(parts)):
        above = f"{bucket}://{'/'.join(parts[:depth])}" if bucket else "/".join(parts[:depth]) or "/"
        if parts[depth] in OWN_NAMES:
            place, is_store = open_place(above), False
            with suppress(StoreError):  # where nothing may be read there is nothing of ours
                is_store = exists(place, STORE_FILE)
            if is_store:
                raise UsageError(f"{out}: lies among the files of the store {place.root}. Choose another place.")
