"""The blocks that flow from load to commit, a unit each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pyarrow as pa

from schemas.manifest import TEXTS_ONLY
from schemas.scores import COPIED_FROM, IMAGE, KEYS, OUTCOME, score_fields
from schemas.text_settings import TextSettings
from schemas.texts import text_fields

PIXELS: Final = pa.field("pixels", pa.binary(448 * 448 * 3), metadata={"doc": "(448, 448, 3) uint8 RGB"})

UNIT: Final = pa.schema([pa.field("shard", pa.int32(), nullable=False), pa.field("unit", pa.int32(), nullable=False)])
"""One row: the block that enters the pipeline."""


def answer_fields(
    questions: Iterable[str], *, keep_distribution: bool, texts: TextSettings | None
) -> tuple[pa.Field, ...]:
    """The columns that the model fills; of an image whose bytes are known they are filled before."""
    return (*score_fields(questions, keep_distribution=keep_distribution), *text_fields(texts))


def scored_unit(answers: Iterable[pa.Field]) -> pa.Schema:
    """The block between scoring and staging."""
    return pa.schema([*UNIT, TEXTS_ONLY, *KEYS, *OUTCOME, *answers, *IMAGE, COPIED_FROM])


def loaded_unit(answers: Iterable[pa.Field]) -> pa.Schema:
    """The block between loading and scoring: pixels are null for an error, and where the answers are there already."""
    return pa.schema([*scored_unit(answers), PIXELS])


def staged_unit(scores: pa.Schema, texts: TextSettings | None) -> pa.Schema:
    """A file of staging: rows of the scores table, with their texts."""
    return pa.schema([*scores, TEXTS_ONLY, *text_fields(texts)])


RECEIPT: Final = pa.schema(
    [
        *UNIT,
        pa.field("rows", pa.int32(), nullable=False),
        pa.field("scored", pa.int32(), nullable=False, metadata={"doc": "rows that are new in the scores table"}),
        pa.field("copied", pa.int32(), nullable=False, metadata={"doc": "of these, rows with a score from the table"}),
        pa.field("described", pa.int32(), nullable=False, metadata={"doc": "rows that got texts"}),
        pa.field("text_tokens", pa.int64(), nullable=False, metadata={"doc": "generated for all of them"}),
        pa.field(
            "error_types", pa.list_(pa.string()), nullable=False, metadata={"doc": "one entry for each error row"}
        ),
    ]
)
"""One row for each staged unit: what reaches the driver."""
