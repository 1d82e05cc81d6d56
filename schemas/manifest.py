"""The manifest: which images there are, one row each.

A user's manifest has `image_id` (or takes the uri for it) and one of `uri` or `image`; any further columns are theirs.
"""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = "1"

MANIFEST = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False, metadata={"doc": "unique name of the row"}),
        pa.field("uri", pa.string(), metadata={"doc": "local path, file://, s3://, gs://, az:// or https://"}),
        pa.field("version", pa.string(), metadata={"doc": "changes when the image does: etag, or size and mtime"}),
        pa.field("gt_score", pa.float64(), metadata={"doc": "ground truth, in its own range"}),
    ],
    metadata={"schema_version": SCHEMA_VERSION},
)
"""The table that `artimuse manifest` writes. An embedded image is in a further column `image` (binary)."""

QUESTION = pa.field("question", pa.string(), metadata={"doc": "multiple choice about the image; null if it is scored"})

IMAGE_ROWS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), metadata={"doc": "null if the image is embedded"}),
        pa.field("version", pa.string()),
        pa.field("source_file", pa.dictionary(pa.int32(), pa.string()), metadata={"doc": "file with the image in it"}),
        pa.field("source_version", pa.dictionary(pa.int32(), pa.string()), metadata={"doc": "of that file, as listed"}),
        pa.field("source_row_group", pa.int32(), metadata={"doc": "or the record batch of an Arrow file"}),
        pa.field("source_row", pa.int32(), metadata={"doc": "row within the row group"}),
        pa.field("source_column", pa.dictionary(pa.int32(), pa.string()), metadata={"doc": "column with the image"}),
        pa.field("source_item", pa.int32(), metadata={"doc": "place in the row's list of images, if it is one"}),
        QUESTION,
    ]
)
"""Locations of images: every kind of source is read into these columns."""

TEXTS_ONLY = pa.field(
    "texts_only", pa.bool_(), nullable=False, metadata={"doc": "the scores table holds the row already"}
)
"""A column more in a shard of a plan; each row group of the file is one unit."""
