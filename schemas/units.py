"""The blocks that flow from load to commit, a unit each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import pyarrow as pa

from schemas.manifest import QUESTION, TEXTS_ONLY
from schemas.scores import COPIED_FROM, IMAGE, KEYS, OUTCOME, score_fields
from schemas.text_settings import TextSettings
from schemas.texts import text_fields

PIXELS: Final = pa.field("pixels", pa.binary(448 * 448 * 3), metadata={"doc": "(448, 448, 3) uint8 RGB"})

UNIT: Final = pa.schema([pa.field("shard", pa.int32(), nullable=False), pa.field("unit", pa.int32(), nullable=False)])
"""One row: the block that enters the pipeline."""

SPENT: Final = pa.field(
    "spent",
    pa.struct(
        [
            pa.field("loader", pa.string(), metadata={"doc": "node"}),
            pa.field("fetched_bytes", pa.int64(), metadata={"doc": "of image files"}),
            pa.field("fetch_s", pa.float64(), metadata={"doc": "the loader waited for bytes"}),
            pa.field("decode_s", pa.float64(), metadata={"doc": "the loader decoded"}),
            pa.field("actor", pa.string(), metadata={"doc": "node:pid"}),
            pa.field("wait_s", pa.float64(), metadata={"doc": "the actor was idle before; null for its first unit"}),
            pa.field("model_s", pa.float64(), metadata={"doc": "the actor worked"}),
            pa.field("write_s", pa.float64(), metadata={"doc": "staging took"}),
        ]
    ),
    metadata={"doc": "where the unit's time went, so far: in its first row, null in the others"},
)


COPIED_RUNS: Final = (
    pa.field("scored_by", pa.string(), metadata={"doc": "run_id of a copied score; null if this run made the row"}),
    pa.field("described_by", pa.string(), metadata={"doc": "run_id of copied texts; null if this run made the row"}),
)


def spent_column(spent: Mapping[str, Any], rows: int) -> pa.Array:
    """The column `SPENT` of a unit of so many rows."""
    return pa.array([spent, *[None] * (rows - 1)], SPENT.type)


def answer_fields(
    questions: Iterable[str], *, keep_distribution: bool, texts: TextSettings | None
) -> tuple[pa.Field, ...]:
    """The columns that the model fills; for an image whose bytes have a stored score they are filled earlier."""
    return (*score_fields(questions, keep_distribution=keep_distribution), *text_fields(texts))


def scored_unit(answers: Iterable[pa.Field]) -> pa.Schema:
    """The block between scoring and staging."""
    return pa.schema([*UNIT, TEXTS_ONLY, *KEYS, *OUTCOME, *answers, *IMAGE, COPIED_FROM, *COPIED_RUNS, SPENT])


def loaded_unit(answers: Iterable[pa.Field]) -> pa.Schema:
    """The block between loading and scoring: pixels are null for an error, and where the answers are known already."""
    return pa.schema([*scored_unit(answers), QUESTION, PIXELS])


def staged_unit(scores: pa.Schema, texts: TextSettings | None) -> pa.Schema:
    """A file of staging: rows of the scores table, with their texts."""
    return pa.schema([*scores, TEXTS_ONLY, *text_fields(texts), *(COPIED_RUNS[1:] if texts else ())])


RECEIPT: Final = pa.schema(
    [
        *UNIT,
        pa.field("rows", pa.int32(), nullable=False),
        pa.field("scored", pa.int32(), nullable=False, metadata={"doc": "rows of the scores table, new or replaced"}),
        pa.field("copied", pa.int32(), nullable=False, metadata={"doc": "of these, rows with a score from the table"}),
        pa.field("described", pa.int32(), nullable=False, metadata={"doc": "rows that got texts"}),
        pa.field("text_tokens", pa.int64(), nullable=False, metadata={"doc": "generated for all of them"}),
        pa.field(
            "error_types", pa.list_(pa.string()), nullable=False, metadata={"doc": "one entry for each error row"}
        ),
        SPENT,
    ]
)
"""One row for each staged unit; only this reaches the driver."""
