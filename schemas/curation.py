"""What a curation writes beside the rows it chose."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

SCHEMA_VERSION: Final = "1"
CURATION_KEY: Final = b"artimuse.curation"
"""In the file metadata of a curated Parquet table: the funnel, as JSON."""

CURATION_MARK: Final = "artimuse_curation"
"""In the JSON of a funnel: its digest, by which a later curation knows an output for one of its own."""

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
"""One row for each image that `--dedupe` left out; by the score of the kept one, best first."""
