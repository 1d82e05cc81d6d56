"""One output folder: what is in it, and how a shard gets in.

    OUT/scores/<plan>-<shard>.parquet   committed shards, nothing else, ever
    OUT/texts/<plan>-<shard>.parquet    the texts of the same shard, if there are any
    OUT/_store.json                     the fingerprint of all scores in here, and which texts
    OUT/_plan.json, OUT/_runs/, OUT/_lock   work in progress; names with an underscore are invisible to readers

A unit is staged under a name that depends on the unit alone. When the last unit of a shard is staged, its files become
one texts file and one scores file, each in one atomic write: the presence of the scores file, which is written last, is
the commit. Texts without scores were left by a run that was killed between the two, and the next run deletes them.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from artimuse_actor.errors import BrokenFile, StoreError, StoreMismatch
from artimuse_actor.protocol.protocols import Protocol
from jobs.code_identity import CODE_VERSION
from jobs.plan.plan import CURRENT_PLAN, Plan, ShardPlan, current_plan, planned_ids
from jobs.plan.stored_rows import HeldRows, RetryErrors, read_held_rows
from jobs.storage.parquet import parquet_bytes, read_footer, read_parquet
from jobs.storage.place import READ_THREADS, Place, StoredFile, open_place
from jobs.store.counts import Counts, count_rows
from jobs.store.known_images import KNOWN, KnownRows, write_known_images
from jobs.store.text_request import WantedTexts
from schemas.fingerprint import Fingerprint
from schemas.scores import CODE_KEY, FINGERPRINT_KEY, IMAGE, OK, PLAN_KEY, score_fields, scores_schema
from schemas.text_settings import TextSettings
from schemas.texts import MAX_NEW_TOKENS_KEY, texts_schema
from schemas.units import answer_fields

STORE_FILE: Final = "_store.json"
SCORES: Final = "scores"
TEXTS: Final = "texts"
_FORMAT: Final = 1
_TEXT_GROUP_ROWS: Final = 4_096  # so that whoever wants the texts of a few images need not read those of all


class Store:
    """The scores of one fingerprint, in one place."""

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
    def schema(self) -> pa.Schema:
        """Of the scores table."""
        return scores_schema(self.questions, keep_distribution=self.keep_distribution)

    @property
    def answers(self) -> pa.Schema:
        """Of the columns that the model fills, in both tables."""
        return pa.schema(answer_fields(self.questions, keep_distribution=self.keep_distribution, texts=self.texts))

    @classmethod
    def open(cls, out: str) -> Store:
        """An existing store.

        Raises:
            StoreError: there is none.
        """
        place = open_place(out)
        try:
            raw = json.loads(place.read(STORE_FILE))
        except FileNotFoundError:
            raise StoreError(
                f"{out}: is no store of scores (it has no {STORE_FILE}). Name the --out of a run."
            ) from None
        except ValueError as error:
            raise StoreError(f"{place.uri(STORE_FILE)}: is not valid JSON: {error}.") from error
        try:
            if raw["format"] != _FORMAT:
                raise StoreError(f"{out}: was written in format {raw['format']}, this version reads {_FORMAT}.")
            fingerprint = Fingerprint(**raw["fingerprint"])
            texts = raw.get("texts")
            settings = TextSettings(tuple(texts["titles"]), int(texts["max_new_tokens"])) if texts else None
            return cls(place, fingerprint, tuple(raw["questions"]), bool(raw["keep_distribution"]), settings)
        except (KeyError, TypeError) as error:
            raise StoreError(f"{place.uri(STORE_FILE)}: is not the description of a store.") from error

    @classmethod
    def for_run(
        cls,
        out: str,
        fingerprint: Fingerprint,
        protocol: Protocol,
        keep_distribution: bool,
        wanted_texts: WantedTexts | None = None,
    ) -> Store:
        """The store that a run writes to; `declare` makes it if it is not there.

        A store that has texts gets them from every run, so that each image with a score has its texts.

        Raises:
            StoreMismatch: it holds other scores or texts than this run would make.
        """
        place = open_place(out)
        store = cls(place, fingerprint, tuple(protocol.score_questions), keep_distribution, None)
        if not store.is_declared():
            if store.scores_files():
                raise StoreError(
                    f"{out}: holds scores but no {STORE_FILE}: an `artimuse compact` into it was not finished, or it "
                    "is not ours. Run that again, or choose another --out."
                )
        else:
            store = cls.open(out)
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

    def is_declared(self) -> bool:
        """Whether there is a store here."""
        try:
            self.place.read(STORE_FILE)
        except FileNotFoundError:
            return False
        return True

    def declare(self) -> None:
        """Write down what is in here, if it is not written yet: once the manifest has proved to be in order.

        Raises:
            StoreMismatch: another run has written it meanwhile, and not the same.
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
            written = Store.open(self.place.root)
            written._refuse_other(self.fingerprint, self.keep_distribution)
            if self.texts and not written.texts:
                old = json.loads(self.place.read(STORE_FILE))
                self.place.write(STORE_FILE, json.dumps({**old, "texts": raw["texts"]}, indent=1).encode())

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

    def scores_files(self) -> list[StoredFile]:
        """The committed shards."""
        return [file for file in self.place.files(SCORES) if file.path.endswith(".parquet")]

    def texts_files(self) -> set[str]:
        """Paths of the texts of shards; those of a shard that is being committed may be among them."""
        return {file.path for file in self.place.files(TEXTS) if file.path.endswith(".parquet")}

    def wants_retry(self, retry: RetryErrors) -> bool:
        """Whether a row of the tables failed and is to be tried again."""
        columns = ["status", "error_type", "retryable"]
        paths = [*(file.path for file in self.scores_files()), *(self.texts_files() if self.texts else ())]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            tables = pool.map(lambda path: read_parquet(self.place, path, columns), paths)
            return any(pc.any(retry.chosen(table)).as_py() for table in tables)

    def held(self, retry: RetryErrors = RetryErrors(), *, texts: bool | None = None) -> HeldRows:
        """Ids and versions of all committed rows, and what they want.

        Args:
            retry: which failed rows want to be tried again.
            texts: whether each image with a score wants texts; by default if the store has any.

        Raises:
            StoreError: a file is not whole.
        """
        told = self.texts_files()
        return read_held_rows(
            self.place,
            [file.path for file in self.scores_files()],
            lambda path: texts_path(path) if texts_path(path) in told else None,
            texts=bool(self.texts) if texts is None else texts,
            retry=retry,
        )

    def write_known_images(self, plan: Plan) -> None:
        """Write down which images have a score, for those of the plan that turn out to have the same bytes."""
        texts = self.texts_files()
        tables = [(path, texts_path(path) if texts_path(path) in texts else None) for path in plan.store_files]
        write_known_images(self.place, plan.folder, tables, texts=plan.texts)

    def known_rows(self, plan: Plan) -> KnownRows:
        """The rows that images of the plan with the same bytes take over."""
        scores = score_fields(self.questions, keep_distribution=self.keep_distribution)
        return KnownRows(
            place=self.place,
            folder=plan.folder,
            files=plan.store_files,
            columns=tuple(field.name for field in (*scores, *IMAGE) if field.name != "sha256"),
            text_columns=self.texts.all_columns if self.texts else (),
        )

    def counts(self) -> Counts:
        """Rows of the tables by outcome."""
        scores = [file.path for file in self.scores_files()]
        texts = self.texts_files()
        return count_rows(self.place, scores, [texts_path(path) for path in scores if texts_path(path) in texts])

    def row_count(self) -> int:
        """Rows of the scores table, from the footers of its files."""
        with ThreadPoolExecutor(READ_THREADS) as pool:
            return sum(pool.map(self._rows_of, self.scores_files()))

    def first_doubled_id(self) -> str | None:
        """An id that stands in the table twice, which the commit protocol rules out; None as it should be."""
        double = self.held().ids.first_double()
        if double is None:
            return None
        files = (read_parquet(self.place, file.path, ["image_id"])["image_id"] for file in self.scores_files())
        return str(pa.chunked_array([chunk for ids in files for chunk in ids.chunks])[double[0]])

    def can_continue(self, plan: Plan) -> bool:
        """Whether the work of a plan can go on as it was planned.

        It must make what the store holds, texts or none. The scores files must be those it was made against, and its
        own; and of shards that are not committed, the rows must be there still: when a plan is done they are deleted,
        and a scores file may be deleted after that.
        """
        if plan.texts != bool(self.texts):
            return False
        own = {plan.scores_path(shard) for shard in plan.shards if not shard.replaces}
        others = {file.path for file in self.scores_files()} - own
        if others != set(plan.store_files):
            return False
        done = self.committed(plan)
        rows = [plan.rows_path(shard.index) for shard in plan.shards if shard.index not in done]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            return all(pool.map(self.is_whole, rows))

    def committed(self, plan: Plan) -> set[int]:
        """The shards of a plan that are committed."""
        present = {file.path for file in self.scores_files()}
        texts = self.texts_files() if plan.texts else set()

        def is_committed(shard: ShardPlan) -> bool:
            scores = plan.scores_path(shard)
            if scores not in present or (plan.texts and texts_path(scores) not in texts):
                return False
            return not shard.replaces or self._wrote(plan, texts_path(scores) if shard.texts_only else scores)

        return {shard.index for shard in plan.shards if is_committed(shard)}

    def delete_broken_staging(self, plan: Plan) -> None:
        """Delete staged units that are cut short, so that they are made again."""
        paths = [file.path for file in self.place.files(f"{plan.folder}/staging")]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            for path, whole in zip(paths, pool.map(self.is_whole, paths), strict=True):
                if not whole:
                    self.place.delete(path)

    def staged(self, plan: Plan) -> dict[int, set[int]]:
        """Shard → its units that are staged."""
        staged: dict[int, set[int]] = {shard.index: set() for shard in plan.shards}
        for file in self.place.files(f"{plan.folder}/staging"):
            shard, unit = file.path.removesuffix(".parquet").split("/")[-2:]
            if int(shard) in staged:
                staged[int(shard)].add(int(unit))
        return staged

    def commit(self, plan: Plan, shard: ShardPlan) -> None:
        """Make a shard whose units are all staged part of the table.

        Raises:
            StoreError: the staged rows are not the planned ones.
        """
        table = self._staged_rows(plan, shard, list(range(shard.units)))
        planned = planned_ids(self.place, plan, shard.index)
        if not table["image_id"].equals(planned):
            raise StoreError(
                f"{self.place.uri(plan.staging_folder(shard.index))}: the {table.num_rows} staged rows are not the "
                f"{len(planned)} planned ones. Delete this folder and run again; only this shard is scored anew."
            )
        self._write_shard(plan, shard, table)

    def retire(self, plan: Plan) -> None:
        """Commit what of an abandoned plan is staged, and end the plan; what was not staged is planned anew.

        The smaller shards go by names of their own, so that nobody takes them for the planned ones. Killed in the
        middle, this is done again with the same result: the plan is there until its staging is gone.
        """
        self.delete_broken_staging(plan)
        staged, done = self.staged(plan), self.committed(plan)
        present = {file.path for file in self.scores_files()}
        for shard in plan.shards:
            units = sorted(staged[shard.index])
            if units and shard.index not in done and (not shard.replaces or shard.replaces in present):
                self._write_shard(plan, shard, self._staged_rows(plan, shard, units), part=True)
        self.discard_work(plan)
        self.place.delete(CURRENT_PLAN)

    def discard_work(self, plan: Plan) -> None:
        """Delete a plan's rows, staging and marks, and what it knew."""
        for part in ("rows", "staging", "attempts", KNOWN):
            self.place.delete_tree(f"{plan.folder}/{part}")

    def current_plan(self) -> Plan | None:
        """The plan that the last run worked on, finished or not."""
        return current_plan(self.place)

    def _staged_rows(self, plan: Plan, shard: ShardPlan, units: list[int]) -> pa.Table:
        paths = [plan.staged_path(shard.index, unit) for unit in units]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            return pa.concat_tables(pool.map(self._read_staged, paths)).combine_chunks()

    def _read_staged(self, path: str) -> pa.Table:
        try:
            return read_parquet(self.place, path)
        except (BrokenFile, FileNotFoundError) as error:
            self.place.delete(path)
            raise StoreError(f"{self.place.uri(path)}: is not whole, or gone. Run again to score its unit.") from error

    def _write_shard(self, plan: Plan, shard: ShardPlan, staged: pa.Table, *, part: bool = False) -> None:
        """Put staged rows into the tables: the texts first, then the scores, which commit them."""
        path = plan.scores_path(shard)
        if part and not shard.replaces:
            path = path.replace(".parquet", "-part.parquet")
        texts_only, scores, texts = staged["texts_only"], None, None
        if plan.texts and self.texts:
            schema = texts_schema(self.texts)
            made = staged.filter(pc.or_(texts_only, pc.equal(staged["status"], OK)))
            made = made.append_column("described_at", made["scored_at"]).select(schema.names)
            texts = self._merged(texts_path(path), schema, made, replaced=staged["image_id"])
        if not shard.texts_only:
            made = staged.filter(pc.invert(texts_only)).select(self.schema.names)
            old = path if shard.replaces else None
            scores = self._merged(old, self.schema, made, replaced=made["image_id"])
        self.write_tables(path, scores, texts, made_by=f"{plan.plan_id}-part" if part else plan.plan_id)

    def write_tables(self, path: str, scores: pa.Table | None, texts: pa.Table | None, made_by: str) -> None:
        """Write a scores file and the texts file beside it, that one first; None leaves a file as it is."""
        made: dict[Any, Any] = {
            FINGERPRINT_KEY: self.fingerprint.to_json(),
            PLAN_KEY: made_by,
            CODE_KEY: CODE_VERSION,
        }
        if texts is not None and self.texts:
            metadata = {**texts.schema.metadata, **made, MAX_NEW_TOKENS_KEY: str(self.texts.max_new_tokens)}
            told = texts.replace_schema_metadata(metadata)
            self.place.write(texts_path(path), parquet_bytes(told, row_group_rows=_TEXT_GROUP_ROWS))
        if scores is not None:
            metadata = {**scores.schema.metadata, **made}
            self.place.write(path, parquet_bytes(scores.replace_schema_metadata(metadata)))

    def _merged(self, path: str | None, schema: pa.Schema, made: pa.Table, *, replaced: pa.ChunkedArray) -> pa.Table:
        """The rows of a file but those of these ids, if there is such a file, and then the rows that were made."""
        try:
            old = read_parquet(self.place, path) if path else schema.empty_table()
        except FileNotFoundError:
            old = schema.empty_table()
        kept = old.filter(pc.invert(pc.is_in(old["image_id"], replaced.combine_chunks())))
        return pa.concat_tables([kept.cast(schema), made.cast(schema)])

    def _wrote(self, plan: Plan, path: str) -> bool:
        """Whether a file that was there before was written by this plan."""
        metadata = read_footer(self.place, path).metadata or {}
        return bool(metadata.get(PLAN_KEY) == plan.plan_id.encode())

    def is_whole(self, path: str) -> bool:
        """Whether a Parquet file is there and has its footer."""
        try:
            read_footer(self.place, path)
        except (BrokenFile, FileNotFoundError):
            return False
        return True

    def _rows_of(self, file: StoredFile) -> int:
        return int(read_footer(self.place, file.path).num_rows)


def texts_path(scores_path: str) -> str:
    """The texts file beside a scores file."""
    return f"{TEXTS}/{scores_path.removeprefix(f'{SCORES}/')}"
