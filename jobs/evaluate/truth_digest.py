"""The content hash of ground truth: which rows, rated how, in which order, whatever the file's name or format."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.compute as pc


class TruthDigest:
    """SHA-256 of the lines `name<TAB>points<LF>` of all rows; points are empty where there are none."""

    def __init__(self) -> None:
        """Of no rows yet."""
        self._hash = hashlib.sha256()

    def update(self, batch: pa.Table) -> None:
        """Add rows with the columns `key` and `truth`."""
        points = pc.fill_null(batch["truth"].cast(pa.string()), "")
        lines = pc.binary_join_element_wise(batch["key"].cast(pa.string()), points, "\t")
        self._hash.update("".join(f"{line}\n" for line in lines.to_pylist()).encode())

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        return self._hash.hexdigest()
