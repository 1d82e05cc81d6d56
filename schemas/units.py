"""The blocks that flow from load to commit, a unit each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pyarrow as pa

from schemas.manifest import TEXTS_ONLY
from schemas.scores import IMAGE, KEYS, OUTCOME, score_fields
from schemas.text_settings import TextSettings
from schemas.texts import text_fields

PIXELS: Final = pa.field("pixels", pa.binary(448 * 448 * 3), metadata={"doc": "(448, 448, 3) uint8 RGB; null if error"})

UNIT: Final = pa.schema([pa.field("shard", pa.int32(), nullable=False), pa.field("unit", pa.int32(), nullable=False)])
"""One row: the block that enters the pipeline."""

LOADED_UNIT: Final = pa.schema([*UNIT, TEXTS_ONLY, *KEYS, *OUTCOME, *IMAGE, PIXELS])
"""The block between loading and scoring."""


def scored_unit(questions: Iterable[str], *, keep_distribution: bool, texts: TextSettings | None) -> pa.Schema:
    """The block between scoring and staging: a loaded unit without pixels, with scores and texts."""
    scores = score_fields(questions, keep_distribution=keep_distribution)
    return pa.schema([*UNIT, TEXTS_ONLY, *KEYS, *OUTCOME, *scores, *IMAGE, *text_fields(texts)])


def staged_unit(scores: pa.Schema, texts: TextSettings | None) -> pa.Schema:
    """A file of staging: rows of the scores table, with their texts."""
    return pa.schema([*scores, TEXTS_ONLY, *text_fields(texts)])


RECEIPT: Final = pa.schema(
    [
        *UNIT,
        pa.field("rows", pa.int32(), nullable=False),
        pa.field("scored", pa.int32(), nullable=False, metadata={"doc": "rows that are new in the scores table"}),
        pa.field("described", pa.int32(), nullable=False, metadata={"doc": "rows that got texts"}),
        pa.field("text_tokens", pa.int64(), nullable=False, metadata={"doc": "generated for all of them"}),
        pa.field(
            "error_types", pa.list_(pa.string()), nullable=False, metadata={"doc": "one entry for each error row"}
        ),
    ]
)
"""One row for each staged unit: what reaches the driver."""
