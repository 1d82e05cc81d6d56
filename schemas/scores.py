"""The scores table: one row for every row of the manifest, `ok` with a score or `error` with a reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pyarrow as pa

SCHEMA_VERSION: Final = "1"
FINGERPRINT_KEY: Final = b"artimuse.fingerprint"
PLAN_KEY: Final = b"artimuse.plan"
CODE_KEY: Final = b"artimuse.code_version"
FENCE_KEY: Final = b"artimuse.fence"
"""Key of a random value by which a run made another version of a file, that a run before it may still want to write."""

OK: Final = "ok"
ERROR: Final = "error"

IMAGE_ID: Final = pa.field("image_id", pa.string(), nullable=False, metadata={"doc": "as in the manifest"})
KEYS: Final = (
    IMAGE_ID,
    pa.field("uri", pa.string(), metadata={"doc": "where the image was read; null if it was embedded"}),
    pa.field("version", pa.string(), metadata={"doc": "as in the manifest: etag, or size and mtime"}),
)
OUTCOME: Final = (
    pa.field("status", pa.string(), nullable=False, metadata={"doc": "ok or error"}),
    pa.field("error_type", pa.string(), metadata={"doc": "null if ok"}),
    pa.field("error_message", pa.string(), metadata={"doc": "one sentence; null if ok"}),
    pa.field("retryable", pa.bool_(), metadata={"doc": "whether the same image may succeed later; null if ok"}),
)
SHA256: Final = pa.field("sha256", pa.string(), metadata={"doc": "of the file's bytes, hexadecimal"})
WARNING: Final = pa.field(
    "warning",
    pa.string(),
    metadata={"doc": "what a person would see otherwise, such as alpha_dropped+first_frame; see `schemas.warnings`"},
)
TAKEN_AT: Final = pa.field(
    "taken_at", pa.timestamp("us"), metadata={"doc": "time of the exposure by the camera's clock, without a zone"}
)
CAMERA: Final = pa.field("camera", pa.string(), metadata={"doc": "its make and model, as EXIF has them"})
ORIENTATION: Final = pa.field(
    "orientation", pa.int8(), metadata={"doc": "EXIF's, 1 to 8: 1 is upright; null if the file says nothing"}
)
CAPTURE: Final = (TAKEN_AT, CAMERA, ORIENTATION)
IMAGE: Final = (
    pa.field(
        "width", pa.int32(), metadata={"unit": "pixel", "doc": "of the file; of the turned picture with --exif-rotate"}
    ),
    pa.field("height", pa.int32(), metadata={"unit": "pixel"}),
    pa.field("format", pa.string(), metadata={"doc": "Pillow's name of the file format, or the kind of camera RAW"}),
    SHA256,
    pa.field("phash", pa.string(), metadata={"doc": "64-bit perceptual hash, hexadecimal"}),
    WARNING,
    *CAPTURE,
)
LATER: Final = (WARNING, *CAPTURE)
"""Columns that files of earlier versions lack; they are read as null."""

RUN_ID: Final = pa.field(
    "run_id", pa.string(), nullable=False, metadata={"doc": "the run that made the score or texts, also of a copy"}
)
RUN: Final = (
    RUN_ID,
    pa.field("scored_at", pa.timestamp("us", tz="UTC"), nullable=False),
)
COPIED_FROM: Final = pa.field(
    "copied_from", pa.string(), metadata={"doc": "image_id of the row with the same bytes whose score this is"}
)


def score_fields(questions: Iterable[str], *, keep_distribution: bool) -> list[pa.Field]:
    """The columns that a protocol's questions fill: for `score` also `score_std` and, if kept, `score_distribution`."""
    fields = []
    for question in questions:
        points = {"unit": "points, 0 to 100"}
        fields.append(pa.field(question, pa.float32(), metadata={**points, "doc": "null if error"}))
        fields.append(pa.field(f"{question}_std", pa.float32(), metadata={**points, "doc": "spread of the levels"}))
        if keep_distribution:
            levels = pa.list_(pa.field("item", pa.float32(), nullable=False))
            doc = {"doc": "probability of each of the levels 0 to 100"}
            fields.append(pa.field(f"{question}_distribution", levels, metadata=doc))
    return fields


def scores_schema(questions: Iterable[str], *, keep_distribution: bool = False) -> pa.Schema:
    """The scores table of a protocol with these score questions."""
    scores = score_fields(questions, keep_distribution=keep_distribution)
    return pa.schema([*KEYS, *OUTCOME, *scores, *IMAGE, *RUN, COPIED_FROM], metadata={"schema_version": SCHEMA_VERSION})
