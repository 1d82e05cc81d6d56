"""The interface of every kind of manifest: batches of rows with the same columns."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final, Protocol, Self
from urllib.parse import quote_from_bytes

import pyarrow as pa
import pyarrow.compute as pc

from artimuse_actor.errors import ManifestError, UsageError
from artimuse_actor.uris import canonical_uri
from schemas.manifest import IMAGE_ROWS, MANIFEST

_ABSOLUTE: Final = r"^(/|[A-Za-z][A-Za-z0-9+.\-]*://)"

ERROR, ROW, FIRST = "error", "row", "first"
"""Values of `--on-bad-row` and `--on-duplicate`."""

ROWS: Final = pa.schema([*IMAGE_ROWS, MANIFEST.field("gt_score")])
"""Columns of a manifest's batch: those that a plan keeps, and the ground truth if there is one."""


@dataclass(frozen=True)
class ManifestBatch:
    """Consecutive rows of one file of a manifest.

    Attributes:
        rows: of schema `ROWS`; empty if only own columns were asked for.
        file: name of the file for error messages.
        first_row: number of the first row within the file, from 0.
        own: the manifest's own columns that were asked for.
    """

    rows: pa.Table
    file: str
    first_row: int
    own: pa.Table | None = None


_END_OF_FOLDER: Final = re.compile("[/#]")


@dataclass(frozen=True)
class Coverage:
    """The images that a source would name if they were there.

    Attributes:
        root: the folder or prefix that was listed, without a slash at its end; None if the source is all there is to
            know of its images, as a manifest is.
        unseen: folders below it that could not be looked into, or are empty like one whose disk is not mounted, and
            tars that end too early; "" if these may have had a table of any image.
        id_prefix: what its ids begin with.
    """

    root: str | None
    unseen: tuple[str, ...] = ()
    id_prefix: str = ""

    def includes(self, image_id: str, uri: str | None) -> bool:
        """Whether the listing would have an image of this id and uri, if it were there."""
        if self.root is None:
            return not self._is_unseen(uri or "")
        if uri is None:
            return False
        name = image_id.removeprefix(self.id_prefix)
        below = f"{self.root}/{name}"
        is_ours = image_id.startswith(self.id_prefix)
        if not is_ours or uri not in (below, f"file://{quote_from_bytes(os.fsencode(self.root))}/{name}"):
            return False
        hidden = any(part.startswith(".") for part in name.split("/"))
        return not hidden and not self._is_unseen(below)

    @cached_property
    def _unseen(self) -> frozenset[str]:
        return frozenset(self.unseen)

    def _is_unseen(self, path: str) -> bool:
        """Whether it is below an unseen folder, or in an unseen tar, however many there are."""
        return "" in self._unseen or any(path[: end.start()] in self._unseen for end in _END_OF_FOLDER.finditer(path))


class Manifest(Protocol):
    """Rows that name images."""

    @property
    def coverage(self) -> Coverage | None:
        """The images that it would name if they were there; None if that cannot be known, as of a pattern."""

    @property
    def source(self) -> str:
        """The source as the user gave it."""

    @property
    def notes(self) -> list[str]:
        """Sentences for the user about rows that were left out or doubled."""

    @property
    def is_listed(self) -> bool:
        """Whether a version of a row says that its image was there when the manifest was opened."""

    @property
    def id_prefix(self) -> str:
        """What all its ids begin with."""

    def columns(self) -> pa.Schema:
        """All its columns, whether or not a plan uses them. Raises ManifestError."""

    def image_column(self) -> str | None:
        """The one of its columns that holds the images themselves. Raises ManifestError."""

    def batches(self, own: Sequence[str] = (), *, keys: bool = True) -> Iterator[ManifestBatch]:
        """All rows, always in one order, with the columns `own`; without `keys` only these. Raises ManifestError."""

    def identity(self) -> str:
        """A digest that changes when the rows change; costs at most as much as reading them."""


def without_rows(manifest: Manifest) -> ManifestError:
    """The error of a manifest without any row, with what was noted about it, such as that a tar is damaged."""
    return ManifestError(" ".join([f"{manifest.source}: has no rows.", *manifest.notes, "Name a source with images."]))


@dataclass(frozen=True)
class ManifestOptions:
    """Options for reading a source.

    Attributes:
        images: folder or prefix to which relative uris, and the images of a `test.json`, are relative; by default the
            folder of the table that names them.
        id_column: the column of a table with the id; by default `image_id`, else the uri.
        id_columns: the columns that are the id together, with commas in between.
        uri_column: the column with the uri; by default `uri`.
        image_column: the column with the images themselves; by default `image`.
        hf_config: configuration of a data set on the Hugging Face hub.
        split: its split.
        on_bad_row: `error`, or `row`: a row of a table that names no image becomes an error row.
        on_duplicate: `error`, or `first`: of rows with the same id the first is taken.
        limit: read only the first rows, that many.
        shard: as `3/100`, read only the third of a hundred parts, by the hash of the id.
        as_questions: whether a JSON file is a list of multiple-choice questions, see `jobs.manifest.questions`.
        id_prefix: put before every id.
    """

    images: str | None = None
    id_column: str | None = None
    id_columns: str | None = None
    uri_column: str | None = None
    image_column: str | None = None
    hf_config: str | None = None
    split: str | None = None
    on_bad_row: str = ERROR
    on_duplicate: str = ERROR
    limit: int | None = None
    id_prefix: str | None = None
    shard: str | None = None
    as_questions: bool = False

    def __post_init__(self) -> None:
        for option, given, other in (
            ("--on-bad-row", self.on_bad_row, ROW), ("--on-duplicate", self.on_duplicate, FIRST),
        ):  # fmt: skip
            if given not in (ERROR, other):
                raise UsageError(f"{option} takes {ERROR} or {other}, not {given!r}.")
        if self.id_column and self.id_columns:
            raise UsageError("--id-column and --id-columns: give one of them.")
        if self.id_columns is not None and not all(self.id_names):
            raise UsageError(f"--id-columns takes names with commas in between, not {self.id_columns!r}.")

    @property
    def part(self) -> tuple[int, int] | None:
        """Number of the part to read, from 0, and of all parts; None for all rows. Raises UsageError."""
        if self.shard is None:
            return None
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", self.shard)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"--shard takes one part of so many, from 1/100 to 100/100, not {self.shard!r}.")
        return int(match[1]) - 1, int(match[2])

    @property
    def id_names(self) -> tuple[str, ...]:
        """The columns that were asked for as the id."""
        if self.id_columns is not None:
            return tuple(name.strip() for name in self.id_columns.split(","))
        return (self.id_column,) if self.id_column else ()

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """The options among the arguments of a command, as it has them or as a run records them."""
        return cls(**{field.name: arguments[field.name] for field in fields(cls) if field.name in arguments})


def is_absolute(path: str) -> bool:
    """Whether a path or uri means the same wherever it is read."""
    return re.match(_ABSOLUTE, path) is not None


def absolute(uri: pa.Array, base: str) -> pa.Array:
    """Uris with relative paths made absolute, from `base`, since tasks run in other folders; each as it is written."""
    relative = pc.invert(pc.match_substring_regex(uri, _ABSOLUTE))
    if not pc.any(relative).as_py():
        return uri
    return pc.if_else(relative, pc.binary_join_element_wise(absolute_base(base), uri, "/"), uri)


def absolute_base(folder: str) -> str:
    """A folder as an absolute path or uri, without a slash at its end."""
    if is_absolute(folder):
        return canonical_uri(folder).rstrip("/")
    return os.path.abspath(os.path.expanduser(folder))
