"""Scores to compare with ground truth: those of a store, or of any table with a name and a number in each row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from artimuse_actor.errors import GroundTruthError
from jobs.evaluate.benchmarks import Benchmark
from jobs.evaluate.ground_truth import column_names, names_table, read_ground_truth
from jobs.evaluate.truth_columns import NO_TRUTHS, TruthColumns, key_column, known_column
from jobs.storage.parquet import read_parquet
from jobs.store.stores import Stores
from schemas.fingerprint import Fingerprint
from schemas.scores import OK

SCORE_COLUMNS: Final = ("score", "prediction", "pred", "predicted", "predicted_score", "pred_score", "mos")
_KEYS: Final = ["image_id", "uri", "status", "error_type"]


@dataclass(frozen=True)
class Scores:
    """Scores of one origin.

    Attributes:
        place: where they are, as the user gave it.
        question: which score: the name of its column.
        batches: reads them, in tables of `image_id`, `uri`, `status`, `error_type` and the score.
        fingerprint: of a store's; None for tables of unknown origin.
    """

    place: str
    question: str
    batches: Callable[[], Iterable[pa.Table]]
    fingerprint: Fingerprint | None = None


def open_scores(
    place: str,
    question: str | None,
    benchmark: Benchmark | None,
    id_column: str | None = None,
    *,
    allow_mixed: bool = False,
) -> Scores:
    """The scores of a store, of all stores that a pattern matches, or of a file in a format of ground truth.

    Args:
        place: the store, a pattern of stores, or a file of `column_names`.
        question: which score; None for the benchmark's, or the first.
        benchmark: what is evaluated, if it is one.
        id_column: of a file, the column that names the image; None to guess it.
        allow_mixed: whether the stores of a pattern may have several fingerprints; that of the first one counts.

    Raises:
        StoreError: there is no store.
        StoreMismatch: the stores of a pattern have different fingerprints.
        GroundTruthError: a file cannot be read, or its columns cannot be guessed.
        UsageError: a store has no such score.
    """
    if not names_table(place):
        stores = Stores.open([place], allow_mixed=allow_mixed)
        if question is None and benchmark and benchmark.question in stores.first.questions:
            question = benchmark.question
        chosen = stores.first.question("--question", question)
        return Scores(place, chosen, lambda: _store_batches(stores, chosen), stores.first.fingerprint)
    preferred = (benchmark.question, *SCORE_COLUMNS) if benchmark else SCORE_COLUMNS
    columns = _guess_columns(column_names(place), place, id_column, question, preferred)
    rows = pa.concat_tables([NO_TRUTHS, *read_ground_truth(place, columns)])
    # A published results file has a row for each row of ground truth, which may name an image twice.
    rows = rows.group_by(["key", "truth"], use_threads=False).aggregate([])
    table = scores_table(pa.table({"image_id": rows["key"], columns.truth: rows["truth"]}), columns.truth)
    return Scores(place, columns.truth, lambda: [table])


def scores_table(table: pa.Table, question: str) -> pa.Table:
    """A table with `image_id` and a score, with the columns of a scores table that it lacks; null scores are errors."""
    if "status" not in table.column_names:
        table = table.append_column("status", pc.if_else(pc.is_valid(table[question]), OK, "error"))
    for name in ("uri", "error_type"):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.string()))
    return table


def _guess_columns(
    names: Sequence[str], where: str, key: str | None, number: str | None, preferred: Sequence[str]
) -> TruthColumns:
    """The columns of a table of scores: those asked for, else those of a usual name, else the only other one."""
    key = key_column(key, names, where, "--id-column")
    if number is not None:
        return TruthColumns(key, known_column(number, names, where, "--question"))
    others = [name for name in names if name != key]
    number = next((name for name in preferred if name in others), None)
    number = number or (others[0] if len(others) == 1 else None)
    if number is None:
        raise GroundTruthError(
            f"{where}: which column is the score? It has {', '.join(others[:20]) or 'no other'}. Name it with "
            "--question."
        )
    return TruthColumns(key, number)


def _store_batches(stores: Stores, question: str) -> Iterator[pa.Table]:
    for store in stores.stores:
        for path in store.table_files().scores_paths:
            yield read_parquet(store.place, path, [*_KEYS, question])
