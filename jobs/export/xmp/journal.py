"""The journal of sidecars, in the store: what each was before, so that an export can be taken back.

A part is written before its sidecars are. So whatever a killed export has written stands in it.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote_from_bytes

import pyarrow as pa

from artimuse_actor.uris import user_path
from jobs.storage.parquet import parquet_bytes, read_parquet
from jobs.storage.place import Place
from jobs.storage.user_files import is_unicode
from jobs.store.layout import SIDECARS

_SCHEMA: Final = pa.schema(
    [
        pa.field("sidecar", pa.string(), nullable=False, metadata={"doc": "a path, or a file:// uri"}),
        pa.field("before", pa.binary(), metadata={"doc": "null if there was none"}),
        pa.field("after", pa.string(), nullable=False, metadata={"doc": "SHA-256 of what was written"}),
    ]
)


@dataclass(frozen=True)
class Entry:
    """One sidecar that was written.

    Attributes:
        sidecar: its path.
        before: its bytes before; None if there was none.
        after: digest of what was written.
    """

    sidecar: str
    before: bytes | None
    after: str


class Journal:
    """The journal of one store."""

    def __init__(self, place: Place, run_id: str = "") -> None:
        """Read nothing yet; parts are named after the export `run_id`."""
        self._place, self._run_id, self._parts = place, run_id, 0

    def add(self, entries: Sequence[Entry]) -> None:
        """Write a part."""
        if entries:
            rows = [(_named(entry.sidecar), entry.before, entry.after) for entry in entries]
            table = pa.table(list(map(list, zip(*rows, strict=True))), schema=_SCHEMA)
            self._place.write_private(f"{SIDECARS}/{self._run_id}-{self._parts:05}.parquet", parquet_bytes(table))
            self._parts += 1

    def entries(self) -> dict[str, list[Entry]]:
        """Sidecar → what was written there, oldest first."""
        found = defaultdict(list)
        for file in self._place.files(SIDECARS):
            for row in read_parquet(self._place, file.path).to_pylist():
                sidecar = user_path(row.pop("sidecar"))
                found[sidecar].append(Entry(sidecar, **row))
        return found

    def keep(self, entries: Mapping[str, list[Entry]]) -> None:
        """Delete all but these, which are still to be taken back."""
        before = self._place.files(SIDECARS)
        self.add([entry for written in entries.values() for entry in written])
        for file in before:
            self._place.delete(file.path)


def _named(path: str) -> str:
    """A path as Parquet holds it: one that is not UTF-8 as a file:// uri."""
    return path if is_unicode(path) else f"file://{quote_from_bytes(os.fsencode(path))}"


def digest_of(data: bytes) -> str:
    """The digest of a sidecar's bytes."""
    return hashlib.sha256(data).hexdigest()
