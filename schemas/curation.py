"""Metadata and tables that a curation writes beside its rows."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

SCHEMA_VERSION: Final = "1"
CURATION_KEY: Final = b"artimuse.curation"
"""Key in the file metadata of a curated Parquet table; its value is the funnel as JSON."""

CURATION_MARK: Final = "artimuse_curation"
"""Key of the digest in a funnel's JSON; a later curation recognises its own outputs by it."""

GROUPS: Final = pa.schema(
    [
        pa.field("kept_image_id", pa.string(), nullable=False, metadata={"doc": "the best-scored of the group"}),
        pa.field("image_id", pa.string(), nullable=False, metadata={"doc": "left out, since it is like the kept one"}),
        pa.field("distance", pa.int8(), nullable=False, metadata={"unit": "bit", "doc": "of the perceptual hashes"}),
        pa.field("kept_score", pa.float32(), nullable=False, metadata={"unit": "points, 0 to 100"}),
        pa.field("score", pa.float32(), nullable=False, metadata={"unit": "points, 0 to 100"}),
    ],
    metadata={"schema_version": SCHEMA_VERSION},
)
"""One row for each image that `--dedupe` left out, ordered by the score of the kept image, best first."""
