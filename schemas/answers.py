"""The answers table: one row for each entry of a list of multiple-choice questions."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

SCHEMA_VERSION: Final = "1"

MISSING: Final = "missing"
"""Status of a question that was not asked yet."""


def answers_schema(letters: tuple[str, ...]) -> pa.Schema:
    """The answers table of a prompt with these letters."""
    return pa.schema(
        [
            pa.field("entry", pa.int32(), nullable=False, metadata={"doc": "number in the list, from 0"}),
            pa.field("image_id", pa.string(), nullable=False, metadata={"doc": "as the list names the image"}),
            pa.field(
                "question_id", pa.string(), nullable=False, metadata={"doc": "beginning of the question's SHA-256"}
            ),
            pa.field("question", pa.string(), nullable=False),
            pa.field("answer", pa.string(), nullable=False, metadata={"doc": "the right letter"}),
            pa.field("fields", pa.string(), nullable=False, metadata={"doc": "all other fields of the entry, as JSON"}),
            pa.field("status", pa.string(), nullable=False, metadata={"doc": "ok, error, or missing: not asked yet"}),
            pa.field("error_type", pa.string(), metadata={"doc": "null if ok"}),
            pa.field("error_message", pa.string(), metadata={"doc": "one sentence; null if ok"}),
            pa.field("reply", pa.string(), metadata={"doc": "all of it; null if not ok"}),
            pa.field("reply_tokens", pa.int32(), metadata={"unit": "token", "doc": "without the one that ended it"}),
            pa.field("finish_reason", pa.string(), metadata={"doc": "stop: by itself; length: at the limit"}),
            *(
                pa.field(
                    f"p_{letter.lower()}", pa.float32(), metadata={"doc": f"probability of {letter} as first token"}
                )
                for letter in letters
            ),
            pa.field("choice", pa.string(), metadata={"doc": "of the published parser: the first character, whatever"}),
            pa.field(
                "choice_lenient", pa.string(), metadata={"doc": "the letter that the reply names; null if unclear"}
            ),
            pa.field("choice_likeliest", pa.string(), metadata={"doc": "the letter of highest probability"}),
            pa.field("is_right", pa.bool_(), nullable=False, metadata={"doc": "by the published parser; else false"}),
        ],
        metadata={"schema_version": SCHEMA_VERSION},
    )
