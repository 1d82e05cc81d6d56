"""What every kind of manifest comes to: batches of rows of the same columns."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from schemas.manifest import IMAGE_ROWS, MANIFEST

_ABSOLUTE: Final = r"^(/|[A-Za-z][A-Za-z0-9+.\-]*://)"

ROWS: Final = pa.schema([*IMAGE_ROWS, MANIFEST.field("gt_score")])
"""A batch of a manifest: what a plan keeps of each row, and the ground truth if there is one."""


@dataclass(frozen=True)
class ManifestBatch:
    """Consecutive rows of one file of a manifest.

    Attributes:
        rows: of schema `ROWS`; nothing if only own columns were asked for.
        file: what to name in an error.
        first_row: number of the first row within the file, from 0.
        own: the manifest's own columns that were asked for.
    """

    rows: pa.Table
    file: str
    first_row: int
    own: pa.Table | None = None


class Manifest(Protocol):
    """Rows that name images."""

    @property
    def source(self) -> str:
        """As the user gave it."""

    @property
    def notes(self) -> list[str]:
        """What to tell the user about it."""

    def columns(self) -> pa.Schema:
        """Its own columns, whether or not a plan knows them. Raises ManifestError."""

    def batches(self, own: Sequence[str] = (), *, keys: bool = True) -> Iterator[ManifestBatch]:
        """All rows, always in the same order, with these of its own columns, or just those. Raises ManifestError."""

    def identity(self) -> str:
        """A digest that changes when the rows do; at most as costly as reading them."""


@dataclass(frozen=True)
class ManifestOptions:
    """How a source is read.

    Attributes:
        images: folder or prefix that relative uris, and the images of a `test.json`, start from.
        id_column: the column of a Parquet manifest that is the id; by default `image_id`, else the uri.
        uri_column: the column that is the uri; by default `uri`.
        limit: take only that many rows, from the start.
    """

    images: str | None = None
    id_column: str | None = None
    uri_column: str | None = None
    limit: int | None = None


def absolute(uri: pa.Array, base: str | None) -> pa.Array:
    """Relative paths from `base`, or from the current folder: tasks run elsewhere."""
    relative = pc.invert(pc.match_substring_regex(uri, _ABSOLUTE))
    if not pc.any(relative).as_py():
        return uri
    return pc.if_else(relative, pc.binary_join_element_wise(absolute_base(base or os.getcwd()), uri, "/"), uri)


def absolute_base(folder: str) -> str:
    """A folder as an absolute path or uri, without a slash at its end."""
    if re.match(_ABSOLUTE, folder):
        return folder.rstrip("/")
    return os.path.abspath(os.path.expanduser(folder))
