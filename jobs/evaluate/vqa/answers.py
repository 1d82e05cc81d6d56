"""A list of questions and a store of replies → the answers table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from artimuse_actor.protocol.multiple_choice import LETTERS
from jobs.evaluate.vqa.parsers import lenient_choice, likeliest_choice, published_choice
from jobs.manifest.questions import Question
from jobs.storage.parquet import parquet_bytes, read_parquet
from jobs.store.layout import answers_path
from jobs.store.store import Store
from schemas.answers import MISSING, answers_schema
from schemas.scores import OK
from schemas.text_settings import letter_suffix

_ASKED: Final = ("image", "question", "answer")
_PROBABILITIES: Final = {f"reply{letter_suffix(letter)}": letter for letter in LETTERS}


def answers_table(questions: Sequence[Question], store: Store) -> pa.Table:
    """One row for each question, in their order, of schema `answers_schema`."""
    outcomes = _outcomes(store)
    rows = [_row(number, question, outcomes.get(question.row_id, {})) for number, question in enumerate(questions)]
    return pa.Table.from_pylist(rows, schema=answers_schema(LETTERS))


def write_answers(table: pa.Table, store: Store, data_set: str) -> str:
    """Write the answers table of a data set into its store, over an earlier one; returns where."""
    path = answers_path(data_set)
    store.place.write(path, parquet_bytes(table))
    return store.place.uri(path)


def _outcomes(store: Store) -> dict[str, dict[str, Any]]:
    """Row id → status, error and reply."""
    files = store.table_files()
    found: dict[str, dict[str, Any]] = {}
    for path in files.scores_paths:
        columns = ["image_id", "status", "error_type", "error_message"]
        found |= {row.pop("image_id"): row for row in read_parquet(store.place, path, columns).to_pylist()}
        if beside := files.texts_beside(path):
            columns = ["image_id", "reply", "reply_tokens", "reply_finish_reason", *_PROBABILITIES]
            for row in read_parquet(store.place, beside, columns).to_pylist():
                found[row.pop("image_id")].update(row)
    return found


def _row(number: int, question: Question, outcome: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in question.entry.items() if name not in _ASKED}
    row = {
        "entry": number,
        "image_id": question.image,
        "question_id": question.question_id,
        "question": question.text,
        "answer": question.answer,
        "fields": json.dumps(rest, ensure_ascii=False),
        "status": outcome.get("status", MISSING),
        "error_type": outcome.get("error_type"),
        "error_message": outcome.get("error_message"),
        "is_right": False,
    }
    reply = outcome.get("reply")
    if row["status"] != OK or reply is None:
        return row
    probabilities = {letter: outcome[column] for column, letter in _PROBABILITIES.items()}
    choice = published_choice(reply)
    return row | {
        "reply": reply,
        "reply_tokens": outcome["reply_tokens"],
        "finish_reason": outcome["reply_finish_reason"],
        **{f"p_{letter.lower()}": chance for letter, chance in probabilities.items()},
        "choice": choice,
        "choice_lenient": lenient_choice(reply, LETTERS),
        "choice_likeliest": likeliest_choice(probabilities),
        "is_right": choice == question.answer,
    }
