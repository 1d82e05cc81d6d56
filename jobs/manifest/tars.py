"""Tar files of images, as WebDataset reads and img2dataset writes them: each image of each tar is a row.

Files whose names differ only after the first dot of the last part are one sample; its other files (`json`, `txt`,
`cls`) are columns.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from artimuse_actor.errors import ManifestError
from artimuse_actor.fetch.file_range import FileRange
from artimuse_actor.fetch.options import FetchOptions
from jobs.manifest.img2dataset import KEY, failed_note, failed_rows, is_output, read_columns
from jobs.manifest.listing import IMAGE_SUFFIXES, UNREADABLE_SUFFIXES, ListedFile
from jobs.manifest.manifest import ROWS, Coverage, ManifestBatch, ManifestOptions
from jobs.manifest.tar_index import TarIndex, TarIndexes
from jobs.storage.file_parts import read_parts
from jobs.storage.place import READ_THREADS
from jobs.storage.read_ahead import read_ahead
from jobs.storage.user_files import BATCH_ROWS
from jobs.storage.user_tables import open_table
from schemas.manifest import MANIFEST

SIDECARS: Final = ("json", "txt", "cls")
"""Suffixes of a sample's files that are columns, as text."""


@dataclass
class TarManifest:
    """The images of tar files, read from their headers.

    Attributes:
        indexes: of the tars, kept in the store if there is one.
        listed: what their listing covers, if that can be known.
        beside: path of a tar → img2dataset's table of it.
    """

    source: str
    files: list[ListedFile]
    options: ManifestOptions
    indexes: TarIndexes
    fetching: FetchOptions
    listed: Coverage | None = None
    beside: dict[str, ListedFile] = field(default_factory=dict)
    is_listed = True
    id_prefix = ""
    cuts: dict[str, str] = field(default_factory=dict)
    failed_downloads: int = 0

    @property
    def notes(self) -> list[str]:
        """See `Manifest`; of what was seen when it was last read."""
        return [*self.cuts.values(), *failed_note(self.failed_downloads)]

    @property
    def coverage(self) -> Coverage | None:
        """See `Manifest`; of what was seen when it was last read."""
        return self.listed and replace(self.listed, unseen=(*self.listed.unseen, *self.cuts))

    def identity(self) -> str:
        """See `Manifest`: a digest of the tars' names, sizes and versions; reads none of them."""
        listing = [[file.path, file.size_bytes, file.version] for file in self.files]
        return hashlib.sha256(json.dumps(["tars", listing, asdict(self.options)]).encode()).hexdigest()

    def columns(self) -> pa.Schema:
        """See `Manifest`: those of every manifest, the sidecars of the first tar with images, and its table's."""
        return pa.schema([*MANIFEST, *(pa.field(name, pa.string()) for name in self._sidecars), *self._table_columns])

    def image_column(self) -> str | None:
        """See `Manifest`: members have uris."""
        return None

    @cached_property
    def _table_columns(self) -> list[pa.Field]:
        for table in self.beside.values():
            taken = {*MANIFEST.names, *self._sidecars}
            with open_table(table.path) as opened:
                return (
                    [column for column in opened.schema if column.name not in taken] if is_output(opened.schema) else []
                )
        return []

    @cached_property
    def _sidecars(self) -> list[str]:
        for file in self.files:
            index = self.indexes.index(file)
            if len(images_of(index)):
                ends = set(_extensions(index.members["name"]).to_pylist())
                return [name for name in SIDECARS if name in ends]
        return []

    def batches(self, own: Sequence[str] = (), *, keys: bool = True) -> Iterator[ManifestBatch]:  # noqa: ARG002
        """See `Manifest`; `keys` makes no difference here, since they are in the index."""
        self.cuts.clear()
        self.failed_downloads = failed_rows(list(self.beside.values()))
        for file, index in self._indexes():
            if index.cut:
                self.cuts[file.path] = index.cut
            images = images_of(index)
            for start in range(0, len(images), BATCH_ROWS):
                part = images.slice(start, BATCH_ROWS)
                texts = self._texts(file, index, part, own) | self._of_table(file, part, own)
                rows = _rows(file, part)
                carried = pa.table({name: texts[name] if name in texts else rows[name] for name in own})
                yield ManifestBatch(rows, file.path, start, carried if own else None)

    def _indexes(self) -> Iterator[tuple[ListedFile, TarIndex]]:
        """The tars in order, some of them indexed before they are asked for."""
        indexes = read_ahead(self.indexes.index, self.files, READ_THREADS, 2 * READ_THREADS)
        yield from zip(self.files, indexes, strict=True)

    def _texts(self, file: ListedFile, index: TarIndex, images: pa.Table, own: Sequence[str]) -> dict[str, pa.Array]:
        """The sidecars of these images that are asked for, as text; null where there is none."""
        asked = [name for name in own if name in SIDECARS]
        if not asked:
            return {}
        keys = _keys(images["name"])
        names, found = index.members["name"], {}
        for end in asked:
            chosen = index.members.filter(pc.equal(_extensions(names), end))
            places = pc.index_in(keys, _keys(chosen["name"]))
            wanted = chosen.take(pc.drop_null(places)).to_pylist()
            parts = [FileRange(file.path, member["first"], member["size"], file.version) for member in wanted]
            contents = read_parts(parts, self.fetching)
            found[end] = pa.array(
                [None if place is None else _decoded(next(contents), file.path) for place in places.to_pylist()],
                pa.string(),
            )
        return found

    def _of_table(self, file: ListedFile, images: pa.Table, own: Sequence[str]) -> dict[str, pa.ChunkedArray]:
        """The columns of the table beside a tar that are asked for; null where it has no row of an image."""
        fields = [column for column in self._table_columns if column.name in own]
        if not fields:
            return {}
        names = [column.name for column in fields]
        table = read_columns(self.beside[file.path].path, [KEY, *names]) if file.path in self.beside else None
        if table is None:
            return {column.name: pa.nulls(len(images), column.type) for column in fields}
        keys = pc.replace_substring_regex(_keys(images["name"]), "(?s)^.*/", "")
        rows = pc.index_in(keys, table[KEY].combine_chunks())
        return {column.name: table[column.name].cast(column.type).take(rows) for column in fields}


def _decoded(data: Any, path: str) -> str | None:
    if not isinstance(data, bytes):
        raise ManifestError(f"{path}: {data}")
    return data.decode(errors="replace")


def images_of(index: TarIndex) -> pa.Table:
    """The members of a tar that are called like images, and not hidden."""
    names = index.members["name"]
    suffixes = pc.utf8_lower(pc.struct_field(pc.extract_regex(names, r"(?s)(?P<suffix>\.[^./]*)$"), "suffix"))
    known = pa.array(sorted(IMAGE_SUFFIXES | UNREADABLE_SUFFIXES))
    hidden = pc.match_substring_regex(names, r"(?s)(^|/)\.[^/]*$")
    return index.members.filter(pc.and_(pc.is_in(suffixes, known), pc.invert(hidden)))


def _keys(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """The names up to the first dot of their last part."""
    return pc.replace_substring_regex(names, r"(?s)^((?:.*/)?[^/.]*)\.[^/]*$", r"\1")


def _extensions(names: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.utf8_lower(pc.struct_field(pc.extract_regex(names, r"(?s)^(?:.*/)?[^/.]*\.(?P<end>[^/]*)$"), "end"))


def _rows(file: ListedFile, images: pa.Table) -> pa.Table:
    count = len(images)
    last = pc.subtract(pc.add(images["first"], images["size"]), 1)
    where = pc.binary_join_element_wise(images["first"].cast(pa.string()), last.cast(pa.string()), "-")
    version = pa.nulls(count, pa.string())
    if file.version is not None:
        version = pc.binary_join_element_wise(file.version, where, ":")
    made = {
        "image_id": pc.binary_join_element_wise(file.image_id, images["name"], "/"),
        "uri": pc.binary_join_element_wise(f"{file.path}#bytes=", where, ""),
        "version": version,
        "source_file": pa.repeat(pa.scalar(file.path), count).dictionary_encode(),
        "source_version": pa.repeat(pa.scalar(file.version, pa.string()), count).dictionary_encode(),
    }
    return pa.table(
        [made[field.name] if field.name in made else pa.nulls(count, field.type) for field in ROWS], schema=ROWS
    )


def is_tar(path: str) -> bool:
    """Whether a file is called like a tar."""
    return os.path.splitext(path.partition("?")[0] if "://" in path else path)[1].lower() == ".tar"
