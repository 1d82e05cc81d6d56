"""Manifests made of another one: a prefix before its ids, its first rows, one of several parts, each id once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.manifest.id_index import IdIndex, hash_strings, keyed_hashes
from jobs.manifest.manifest import ROWS, Coverage, Manifest, ManifestBatch

_PART_KEY: Final = "parts of sources"
"""Key of the hash that parts go by; with another one every image would move to another part."""


@dataclass
class Derived:
    """Another manifest, and all that is said of it; a subclass changes its rows."""

    manifest: Manifest

    @property
    def source(self) -> str:
        """See `Manifest`."""
        return self.manifest.source

    @property
    def notes(self) -> list[str]:
        """See `Manifest`."""
        return self.manifest.notes

    @property
    def is_listed(self) -> bool:
        """See `Manifest`."""
        return self.manifest.is_listed

    @property
    def coverage(self) -> Coverage | None:
        """See `Manifest`."""
        return self.manifest.coverage

    @property
    def id_prefix(self) -> str:
        """See `Manifest`."""
        return self.manifest.id_prefix

    def columns(self) -> pa.Schema:
        """See `Manifest`."""
        return self.manifest.columns()

    def image_column(self) -> str | None:
        """See `Manifest`."""
        return self.manifest.image_column()


@dataclass
class Prefixed(Derived):
    """Another manifest with a prefix before each id."""

    prefix: str

    @property
    def coverage(self) -> Coverage | None:
        """See `Manifest`."""
        found = self.manifest.coverage
        return found and replace(found, id_prefix=self.prefix)

    @property
    def id_prefix(self) -> str:
        """See `Manifest`."""
        return self.prefix

    def identity(self) -> str:
        """See `Manifest`."""
        return f"{self.manifest.identity()} ids={self.prefix!r}"

    def batches(self, own: Sequence[str] = (), *, keys: bool = True) -> Iterator[ManifestBatch]:
        """See `Manifest`."""
        for batch in self.manifest.batches(own, keys=keys):
            ids = pc.binary_join_element_wise(self.prefix, batch.rows["image_id"], "")
            yield replace(batch, rows=batch.rows.set_column(0, ROWS.field("image_id"), ids))


@dataclass
class Head(Derived):
    """The first rows of another manifest."""

    limit: int

    @property
    def coverage(self) -> None:
        """See `Manifest`: what is left out is not gone."""

    def identity(self) -> str:
        """See `Manifest`."""
        return f"{self.manifest.identity()}[:{self.limit}]"

    def batches(self, own: Sequence[str] = (), *, keys: bool = True) -> Iterator[ManifestBatch]:
        """See `Manifest`."""
        left = self.limit
        for batch in self.manifest.batches(own, keys=keys):
            carried = batch.own.slice(0, left) if batch.own is not None else None
            yield ManifestBatch(batch.rows.slice(0, left), batch.file, batch.first_row, carried)
            left -= batch.rows.num_rows if batch.own is None else batch.own.num_rows
            if left <= 0:
                return


@dataclass
class FirstOfEach(Derived):
    """Another manifest without rows whose id an earlier row has."""

    repeated: NDArray[np.bool_] | None = field(default=None, init=False)

    @property
    def notes(self) -> list[str]:
        """See `Manifest`."""
        count = 0 if self.repeated is None else int(self.repeated.sum())
        said = f"{count:,} rows have the id of an earlier row; the first was taken (--on-duplicate first)."
        return [*self.manifest.notes, said] if count else self.manifest.notes

    def identity(self) -> str:
        """See `Manifest`."""
        return f"{self.manifest.identity()} first of each id"

    def batches(self, own: Sequence[str] = (), *, keys: bool = True) -> Iterator[ManifestBatch]:
        """See `Manifest`."""
        if self.repeated is None:
            hashes = [hash_strings(batch.rows["image_id"]) for batch in self.manifest.batches()]
            self.repeated = IdIndex(np.concatenate([np.empty((0, 2), dtype=np.uint64), *hashes])).repeated()
        start = 0
        for batch in self.manifest.batches(own, keys=keys):
            count = batch.rows.num_rows if batch.own is None else batch.own.num_rows
            kept = pa.array(~self.repeated[start : start + count])
            start += count
            carried = batch.own.filter(kept) if batch.own is not None else None
            rows = batch.rows.filter(kept) if batch.rows.num_rows else batch.rows
            yield replace(batch, rows=rows, own=carried)


@dataclass
class Part(Derived):
    """One of several parts of another manifest, by the hash of the id: an image stays in its part whatever is added."""

    number: int
    parts: int

    @property
    def coverage(self) -> None:
        """See `Manifest`: what is left out is not gone."""

    def identity(self) -> str:
        """See `Manifest`."""
        return f"{self.manifest.identity()} part {self.number}/{self.parts}"

    def batches(self, own: Sequence[str] = (), *, keys: bool = True) -> Iterator[ManifestBatch]:  # noqa: ARG002
        """See `Manifest`; the ids are read in any case. Rows are numbered within the part, and `file` says so."""
        first_rows: dict[str, int] = {}
        for batch in self.manifest.batches(own):
            mine = pa.array(keyed_hashes(batch.rows["image_id"], _PART_KEY) % self.parts == self.number)
            rows = batch.rows.filter(mine)
            first_row = first_rows.get(batch.file, 0)
            first_rows[batch.file] = first_row + rows.num_rows
            name = f"{batch.file} (part {self.number + 1}/{self.parts})"
            yield ManifestBatch(rows, name, first_row, batch.own.filter(mine) if batch.own is not None else None)
