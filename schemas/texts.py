"""The texts table: one row for every image with a score, with a column for each text question."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from schemas.scores import IMAGE_ID, OUTCOME, RUN_ID, SHA256
from schemas.text_settings import TextSettings, letter_suffix

SCHEMA_VERSION: Final = "1"
MAX_NEW_TOKENS_KEY: Final = b"artimuse.max_new_tokens"


def text_fields(texts: TextSettings | None) -> list[pa.Field]:
    """The columns that texts fill; none if there are none."""
    fields = []
    for column, title in texts.columns.items() if texts else ():
        fields.append(pa.field(column, pa.string(), metadata={"doc": title}))
        fields.append(
            pa.field(f"{column}_tokens", pa.int32(), metadata={"unit": "token", "doc": "without the one that ended it"})
        )
        fields.append(
            pa.field(f"{column}_finish_reason", pa.string(), metadata={"doc": "stop: by itself; length: at the limit"})
        )
        for letter in texts.letters if texts else ():
            doc = {"doc": f"probability of {letter} as the first token, of the whole vocabulary"}
            fields.append(pa.field(f"{column}{letter_suffix(letter)}", pa.float32(), metadata=doc))
    return fields


def texts_schema(texts: TextSettings) -> pa.Schema:
    """The texts table of a store.

    A row is an error if its image had a score already and could not be read when texts were asked for later.
    """
    described_at = pa.field("described_at", pa.timestamp("us", tz="UTC"), nullable=False)
    return pa.schema(
        [IMAGE_ID, *OUTCOME, *text_fields(texts), SHA256, RUN_ID, described_at],
        metadata={"schema_version": SCHEMA_VERSION},
    )
