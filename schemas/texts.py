"""The texts table: one row for every image with a score, with a column for each text question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pyarrow as pa

from schemas.scores import IMAGE_ID

SCHEMA_VERSION: Final = "1"


def text_fields(titles: Mapping[str, str]) -> list[pa.Field]:
    """The columns that text questions fill, given as column → title."""
    fields = []
    for column, title in titles.items():
        fields.append(pa.field(column, pa.string(), metadata={"doc": title}))
        fields.append(
            pa.field(f"{column}_tokens", pa.int32(), metadata={"unit": "token", "doc": "without the one that ended it"})
        )
        fields.append(
            pa.field(f"{column}_finish_reason", pa.string(), metadata={"doc": "stop: by itself; length: at the limit"})
        )
    return fields


def texts_schema(titles: Mapping[str, str]) -> pa.Schema:
    """The texts table of these text questions, given as column → title."""
    sha256 = pa.field("sha256", pa.string(), metadata={"doc": "of the bytes that the texts are about, hexadecimal"})
    outcome = (
        pa.field("status", pa.string(), nullable=False, metadata={"doc": "ok, or error if the image was gone since"}),
        pa.field("error_type", pa.string(), metadata={"doc": "null if ok"}),
        pa.field("error_message", pa.string(), metadata={"doc": "one sentence; null if ok"}),
        pa.field("retryable", pa.bool_(), metadata={"doc": "null if ok"}),
    )
    run = (
        pa.field("run_id", pa.string(), nullable=False, metadata={"doc": "the run that made this row"}),
        pa.field("described_at", pa.timestamp("us", tz="UTC"), nullable=False),
    )
    return pa.schema(
        [IMAGE_ID, *outcome, *text_fields(titles), sha256, *run], metadata={"schema_version": SCHEMA_VERSION}
    )
