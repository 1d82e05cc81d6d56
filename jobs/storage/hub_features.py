"""The metadata by which `datasets` knows the features of a Parquet file."""

from __future__ import annotations

import json
from typing import Any, Final

import pyarrow as pa

HUGGING_FACE: Final = b"huggingface"
_NAMES: Final = {"float": "float32", "double": "float64"}


def with_features(schema: pa.Schema, known: bytes | None = None) -> pa.Schema:
    """The schema with the features of its columns in its metadata.

    Args:
        schema: whose other metadata is left out.
        known: the metadata of a table from elsewhere, whose features stay what they are, such as images.
    """
    about = json.loads(known) if known is not None else {}
    features = about.get("info", {}).get("features", {})
    about["info"] = {"features": {field.name: features.get(field.name) or _feature(field.type) for field in schema}}
    return schema.with_metadata({HUGGING_FACE: json.dumps(about).encode()})


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "Sequence"}  # the name that all versions know
    return {"dtype": _NAMES.get(str(kind), str(kind)), "_type": "Value"}
