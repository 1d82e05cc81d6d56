"""Anything that names images → one manifest, streamed.

A source is a folder (or an s3:// prefix), a glob, a Parquet manifest (a file, a folder or a glob of them, with uris or
with embedded images as Hugging Face writes them), or a benchmark's `test.json`. All of them become batches of the same
columns. Only what names the images is read here, never an image.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import IO, Any, Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from artimuse_actor.errors import ManifestError, StoreError, UsageError
from jobs.listing import ListedFile, list_local, list_s3, local_file
from jobs.storage import s3_filesystem
from schemas.manifest import IMAGE_ROWS, MANIFEST

BATCH_ROWS: Final = 65_536
_ABSOLUTE: Final = r"^(/|[A-Za-z][A-Za-z0-9+.\-]*://)"
_MAX_POINTS: Final = 10**15

ROWS: Final = pa.schema([*IMAGE_ROWS, MANIFEST.field("gt_score")])
"""A batch of a manifest: what a plan keeps of each row, and the ground truth if there is one."""


@dataclass(frozen=True)
class ManifestBatch:
    """Consecutive rows of one file of a manifest.

    Attributes:
        rows: of schema `ROWS`.
        file: what to name in an error.
        first_row: number of the first row within the file, from 0.
    """

    rows: pa.Table
    file: str
    first_row: int


class Manifest(Protocol):
    """Rows that name images."""

    @property
    def source(self) -> str:
        """As the user gave it."""

    @property
    def notes(self) -> list[str]:
        """What to tell the user about it."""

    def batches(self) -> Iterator[ManifestBatch]:
        """All rows, in the same order every time. Raises ManifestError."""

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


def open_manifest(source: str, options: ManifestOptions = ManifestOptions()) -> Manifest:
    """Find out what kind of source this is.

    Raises:
        ManifestError: there is nothing of that name, or nothing in it.
        UsageError: an option does not fit the source.
    """
    if options.limit is not None and options.limit < 1:
        raise UsageError("--limit takes a whole number from 1.")
    manifest = _open_manifest(source, options)
    return manifest if options.limit is None else _Head(manifest, options.limit)


def _open_manifest(source: str, options: ManifestOptions) -> Manifest:
    if source.lower().endswith(".json"):
        return _read_test_json(source, options)
    files = list_s3(source) if source.startswith("s3://") else list_local(source)
    parquet = [file for file in files.named if _names_parquet(file.path) and not _is_hidden(file.image_id)]
    # A pattern or a single name means what it says; from a folder only what is called like an image is taken.
    pictures = files.pictures if not files.by_pattern else [f for f in files.named if not _names_parquet(f.path)]
    if parquet and not pictures:
        return ParquetManifest(source, parquet, options)
    if parquet and files.by_pattern:
        raise ManifestError(f"{source}: matches Parquet files and others. Name one kind, such as {source}.parquet.")
    if not pictures:
        found = ", ".join(f"{count} {suffix}" for suffix, count in files.skipped.most_common(5)) or "nothing"
        raise ManifestError(f"{source}: there is no image and no Parquet file in it (found: {found}).")
    if options.images:
        raise UsageError(f"--images goes with a test.json or a Parquet manifest; {source} is neither.")
    return ListedManifest(source, _file_rows(pictures), files.notes())


def write_manifest(manifest: Manifest, out: str) -> int:
    """Write a manifest as one Parquet file.

    Returns:
        The number of rows.

    Raises:
        ManifestError: its images are embedded, so it is a manifest that can be used as it is.
        UsageError: the file is not called like a Parquet file, and would not be taken for a manifest.
        StoreError: it cannot be written.
    """
    if not _names_parquet(out):
        raise UsageError(f"--out {out}: a manifest is called something.parquet, so that `score` knows it for one.")
    remote = out.startswith("s3://")
    path = out if remote else os.path.abspath(os.path.expanduser(out))
    rows = 0
    try:
        if not remote:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        # Whole or not at all: the file gets its name when it is complete.
        with tempfile.TemporaryDirectory(dir=None if remote else os.path.dirname(path), prefix=".manifest-") as folder:
            aside = os.path.join(folder, "manifest.parquet")
            with pq.ParquetWriter(aside, MANIFEST, compression="zstd") as writer:
                for batch in manifest.batches():
                    if batch.rows["source_file"].null_count < batch.rows.num_rows:
                        raise ManifestError(f"{manifest.source}: holds its images itself; use it as it is.")
                    writer.write_table(batch.rows.select(MANIFEST.names).cast(MANIFEST))
                    rows += batch.rows.num_rows
            if remote:
                s3_filesystem().put_file(aside, path)
            else:
                os.replace(aside, path)
    except OSError as error:
        raise StoreError(f"{out}: cannot be written: {error}.") from error
    return rows


@dataclass
class ListedManifest:
    """A manifest held in memory: what a folder, a glob or a `test.json` lists."""

    source: str
    rows: pa.Table
    notes: list[str]

    def batches(self) -> Iterator[ManifestBatch]:
        """See `Manifest`."""
        for start in range(0, self.rows.num_rows, BATCH_ROWS):
            yield ManifestBatch(self.rows.slice(start, BATCH_ROWS), self.source, start)

    def identity(self) -> str:
        """See `Manifest`."""
        digest = hashlib.sha256()
        for batch in self.batches():
            for name in ("image_id", "uri", "version"):
                digest.update(json.dumps(batch.rows[name].to_pylist()).encode())
        return digest.hexdigest()


@dataclass
class ParquetManifest:
    """A manifest in Parquet files, read as it is asked for."""

    source: str
    files: list[ListedFile]
    options: ManifestOptions
    notes: list[str] = field(default_factory=list)

    def identity(self) -> str:
        """See `Manifest`: here it is the files' names, sizes and times that change, and how they are read."""
        # Relative paths start from the current folder.
        listing = [[file.path, file.size_bytes, file.version] for file in self.files]
        return hashlib.sha256(json.dumps([listing, os.getcwd(), asdict(self.options)]).encode()).hexdigest()

    def batches(self) -> Iterator[ManifestBatch]:
        """See `Manifest`."""
        for file in self.files:
            with _open_parquet(file.path) as parquet:
                reader = _ColumnReader(file, parquet.schema_arrow, self.options)
                first_row = 0
                for group in range(parquet.num_row_groups):
                    row_in_group = 0
                    for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=reader.columns):
                        rows = reader.rows(pa.table(batch), first_row, group, row_in_group)
                        yield ManifestBatch(rows, file.path, first_row)
                        first_row += batch.num_rows
                        row_in_group += batch.num_rows


@dataclass
class _Head:
    """The first rows of another manifest."""

    manifest: Manifest
    limit: int

    @property
    def source(self) -> str:
        return self.manifest.source

    @property
    def notes(self) -> list[str]:
        return self.manifest.notes

    def identity(self) -> str:
        return f"{self.manifest.identity()}[:{self.limit}]"

    def batches(self) -> Iterator[ManifestBatch]:
        left = self.limit
        for batch in self.manifest.batches():
            yield ManifestBatch(batch.rows.slice(0, left), batch.file, batch.first_row)
            left -= batch.rows.num_rows
            if left <= 0:
                return


class _ColumnReader:
    """Which columns of one Parquet file are the id, the uri and so on; checks them and renames them."""

    def __init__(self, file: ListedFile, schema: pa.Schema, options: ManifestOptions) -> None:
        self.path = path = file.path
        self.file = file
        if doubled := [name for name in set(schema.names) if schema.names.count(name) > 1]:
            raise ManifestError(f"{path}: has two columns of the name {doubled[0]!r}. Rename one of them.")
        self.options = options
        self.uri = self._pick(schema, options.uri_column, "uri")
        image = schema.field("image") if "image" in schema.names else None
        if self.uri is None and image is not None and _is_string(image.type):
            self.uri = "image"
        self.embedded = image is not None and _is_image(image.type)
        if self.uri is None and not self.embedded:
            raise ManifestError(
                f"{path}: has neither a column `uri` nor an `image` of bytes (it has {', '.join(schema.names[:20])}). "
                "Name the column of paths with --uri-column."
            )
        self.id = self._pick(schema, options.id_column, "image_id")
        self.version = self._pick(schema, None, "version")
        self.gt_score = "gt_score" if "gt_score" in schema.names else None
        if self.gt_score and not _is_number(schema.field("gt_score").type):
            raise ManifestError(f"{path}: `gt_score` is of type {schema.field('gt_score').type}; it must be a number.")
        # Without any other column the first leaf stands in, to count the rows.
        named = [name for name in (self.id, self.uri, self.version, self.gt_score) if name]
        self.columns = list(dict.fromkeys(named)) or [_smallest_leaf(schema)]

    def rows(self, table: pa.Table, first_row: int, group: int, row_in_group: int) -> pa.Table:
        count = table.num_rows
        uri = self._strings(table, self.uri) if self.uri else pa.nulls(count, pa.string())
        if not self.embedded and self.uri:
            self._no_null(uri, self.uri, first_row)
        if self.id:
            image_id = self._strings(table, self.id)
            self._no_null(image_id, self.id, first_row)
        elif uri.null_count:
            rows = [f"{self.file.image_id}#{row}" for row in range(first_row, first_row + count)]
            image_id = pc.coalesce(uri, pa.array(rows, pa.string()))
        else:
            image_id = uri
        here = pc.is_null(uri)
        version = self._strings(table, self.version) if self.version else pa.nulls(count, pa.string())
        if not self.version:
            # An embedded image may have changed whenever the file around it did.
            version = pc.if_else(here, pa.scalar(self.file.version, pa.string()), version)
        none = pa.nulls(count, pa.int32())
        numbers = pa.array(range(row_in_group, row_in_group + count), pa.int32())
        return pa.table(
            [
                image_id,
                _absolute(uri, self.options.images),
                version,
                pc.if_else(here, self.path, pa.nulls(count, pa.string())).dictionary_encode(),
                pc.if_else(here, pa.scalar(group, pa.int32()), none),
                pc.if_else(here, numbers, none),
                table[self.gt_score].cast(pa.float64()) if self.gt_score else pa.nulls(count, pa.float64()),
            ],
            schema=ROWS,
        )

    def _pick(self, schema: pa.Schema, asked: str | None, default: str) -> str | None:
        name = asked or default
        if name not in schema.names:
            if asked:
                raise ManifestError(f"{self.path}: has no column {asked!r} (it has {', '.join(schema.names[:20])}).")
            return None
        kind = schema.field(name).type
        if not _is_string(kind):
            raise ManifestError(
                f"{self.path}: `{name}` is of type {kind}; it must be a string. No image was read. "
                "Cast it, then run again."
            )
        return name

    def _strings(self, table: pa.Table, name: str) -> pa.Array:
        try:
            return table[name].cast(pa.string()).combine_chunks()
        except pa.ArrowInvalid as error:
            raise ManifestError(f"{self.path}: `{name}` holds text that is not UTF-8: {error}.") from error

    def _no_null(self, values: pa.Array, name: str, first_row: int) -> None:
        if values.null_count:
            row = first_row + pc.index(pc.is_null(values), True).as_py()
            raise ManifestError(
                f"{self.path}, row {row}: `{name}` is null. No image was read. Fix or drop the row, then run again."
            )


def _file_rows(files: list[ListedFile]) -> pa.Table:
    return _rows([f.image_id for f in files], [f.path for f in files], [f.version for f in files], [None] * len(files))


def _rows(ids: list[str], uris: list[str], versions: list[str | None], gt_scores: Iterable[float | None]) -> pa.Table:
    empty = [pa.nulls(len(ids), ROWS.field(name).type) for name in ("source_file", "source_row_group", "source_row")]
    strings = [pa.array(values, pa.string()) for values in (ids, uris, versions)]
    return pa.table([*strings, *empty, pa.array(gt_scores, pa.float64())], schema=ROWS)


def _read_test_json(source: str, options: ManifestOptions) -> ListedManifest:
    try:
        with _open_source(source) as file:
            entries = json.load(file)
    except FileNotFoundError:
        raise ManifestError(f"{source}: there is no such file.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{source}: is not valid JSON: {error}.") from error
    if not isinstance(entries, list):
        raise ManifestError(f'{source}: is not a list of {{"image": …, "gt_score": …}}.')
    base = _absolute_base(options.images) if options.images else _images_beside(source)
    rows: dict[str, tuple[str, str | None, float | None]] = {}
    for number, entry in enumerate(entries):
        image = entry.get("image") if isinstance(entry, dict) else None
        if not isinstance(image, str) or not image or not _is_unicode(image):
            raise ManifestError(f"{source}, entry {number}: has no `image` that names a file. No image was read.")
        truth = entry.get("gt_score")
        if truth is not None and (isinstance(truth, bool) or not isinstance(truth, int | float)):
            raise ManifestError(f"{source}, entry {number}: `gt_score` is {truth!r}, not a number. No image was read.")
        if isinstance(truth, int) and abs(truth) > _MAX_POINTS:
            raise ManifestError(f"{source}, entry {number}: `gt_score` is beyond any scale. No image was read.")
        uri = f"{base.rstrip('/')}/{image}"
        version = None if uri.startswith("s3://") else local_file(uri, base).version
        rows.setdefault(image, (uri, version, truth))
    doubled = len(entries) - len(rows)
    notes = [f"{doubled} of {len(entries)} entries name an image again; each image is scored once."] if doubled else []
    uris, versions, truths = zip(*rows.values(), strict=True) if rows else ((), (), ())
    return ListedManifest(source, _rows(list(rows), list(uris), list(versions), truths), notes)


def _images_beside(source: str) -> str:
    folder = os.path.dirname(source) if source.startswith("s3://") else os.path.dirname(os.path.abspath(source))
    beside = f"{folder}/images"
    return beside if source.startswith("s3://") or os.path.isdir(beside) else folder


def _absolute(uri: pa.Array, base: str | None) -> pa.Array:
    """Relative paths from `base`, or from the current folder: tasks run elsewhere."""
    relative = pc.invert(pc.match_substring_regex(uri, _ABSOLUTE))
    if not pc.any(relative).as_py():
        return uri
    return pc.if_else(relative, pc.binary_join_element_wise(_absolute_base(base or os.getcwd()), uri, "/"), uri)


def _absolute_base(folder: str) -> str:
    if re.match(_ABSOLUTE, folder):
        return folder.rstrip("/")
    return os.path.abspath(os.path.expanduser(folder))


def _is_unicode(text: str) -> bool:
    """Whether a string is without lone surrogates, which JSON allows and no file format stores."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind))


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_image(kind.field(kind.get_field_index("bytes")).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _smallest_leaf(schema: pa.Schema) -> str:
    plain = [field.name for field in schema if not pa.types.is_nested(field.type) and not _is_image(field.type)]
    return plain[0] if plain else "image.path" if pa.types.is_struct(schema.field("image").type) else "image"


def _is_hidden(relative: str) -> bool:
    """Whether dataset readers pass over a file: work in progress of a store, for one."""
    return any(part.startswith(("_", ".")) for part in relative.split("/"))


def _names_parquet(path: str) -> bool:
    return path.lower().endswith((".parquet", ".parq"))


def _open_source(path: str) -> IO[bytes]:
    if path.startswith("s3://"):
        file: IO[bytes] = s3_filesystem().open(path, "rb")
        return file
    return open(os.path.expanduser(path.removeprefix("file://")), "rb")


@contextmanager
def _open_parquet(path: str) -> Iterator[Any]:
    try:
        with _open_source(path) as file, pq.ParquetFile(file, pre_buffer=True) as parquet:
            yield parquet
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path}: cannot be read as Parquet: {' '.join(str(error).split())[:300]}") from error
