"""Anything that names images → one manifest, streamed.

A source is a folder (or an s3:// prefix), a glob, a Parquet manifest (a file, a folder or a glob of them, with uris or
with embedded images as Hugging Face writes them), or a benchmark's `test.json`. All of them become batches of the same
columns. Only names of images are read here, never an image.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from artimuse_actor.errors import ManifestError, UsageError
from jobs.manifest.listing import ListedFile, list_local, list_s3, local_file
from jobs.manifest.manifest import ROWS, Coverage, Manifest, ManifestBatch, ManifestOptions, absolute_base
from jobs.manifest.parquet import ParquetManifest
from jobs.storage.user_files import BATCH_ROWS, is_hidden, is_unicode, names_parquet, open_source, write_user_file
from schemas.manifest import MANIFEST

_MAX_POINTS: Final = 10**15


def open_manifest(source: str, options: ManifestOptions = ManifestOptions()) -> Manifest:
    """Open a source as the kind of manifest that it is.

    Raises:
        ManifestError: there is nothing of that name, or nothing in it.
        UsageError: an option does not fit the source.
    """
    if options.limit is not None and options.limit < 1:
        raise UsageError("--limit takes a whole number from 1.")
    manifest = _open_manifest(source, options)
    if options.id_prefix:
        manifest = _Prefixed(manifest, options.id_prefix)
    return manifest if options.limit is None else _Head(manifest, options.limit)


def _open_manifest(source: str, options: ManifestOptions) -> Manifest:
    if source.lower().endswith(".json"):
        return _read_test_json(source, options)
    files = list_s3(source) if source.startswith("s3://") else list_local(source)
    parquet = [file for file in files.named if names_parquet(file.path) and not is_hidden(file.image_id)]
    # A pattern or a single name is taken literally; from a folder, only files with an image suffix are taken.
    pictures = files.pictures if not files.by_pattern else [f for f in files.named if not names_parquet(f.path)]
    if parquet and not pictures:
        return ParquetManifest(source, parquet, options, coverage=None if glob.has_magic(source) else Coverage(None))
    if parquet and files.by_pattern:
        raise ManifestError(f"{source}: matches Parquet files and others. Name one kind, such as {source}.parquet.")
    if not pictures:
        found = ", ".join(f"{count} {suffix}" for suffix, count in files.skipped.most_common(5)) or "nothing"
        raise ManifestError(f"{source}: there is no image and no Parquet file in it (found: {found}).")
    if options.images:
        raise UsageError(f"--images goes with a test.json or a Parquet manifest; {source} is neither.")
    return ListedManifest(source, _file_rows(pictures), files.notes(), files.coverage)


def write_manifest(manifest: Manifest, out: str) -> int:
    """Write a manifest as one Parquet file.

    Returns:
        The number of rows.

    Raises:
        ManifestError: its images are embedded, so it is a Parquet manifest already and can be used as it is.
        UsageError: the name has no Parquet suffix, so `score` would not read the file as a manifest.
        StoreError: it cannot be written.
    """
    if not names_parquet(out):
        raise UsageError(f"--out {out}: a manifest is called something.parquet, so that `score` knows it for one.")
    rows = 0
    with write_user_file(out) as growing, pq.ParquetWriter(growing, MANIFEST, compression="zstd") as writer:
        for batch in manifest.batches():
            if batch.rows["source_file"].null_count < batch.rows.num_rows:
                raise ManifestError(f"{manifest.source}: holds its images itself; use it as it is.")
            writer.write_table(batch.rows.select(MANIFEST.names).cast(MANIFEST))
            rows += batch.rows.num_rows
    return rows


@dataclass
class ListedManifest:
    """A manifest in memory: the images that a folder, a glob or a `test.json` lists."""

    source: str
    rows: pa.Table
    notes: list[str]
    coverage: Coverage | None = None
    is_listed = True
    id_prefix = ""

    def columns(self) -> pa.Schema:
        """See `Manifest`."""
        return MANIFEST

    def batches(self, own: Sequence[str] = (), *, keys: bool = True) -> Iterator[ManifestBatch]:  # noqa: ARG002
        """See `Manifest`; `keys` makes no difference here, since the rows are in memory."""
        for start in range(0, self.rows.num_rows, BATCH_ROWS):
            rows = self.rows.slice(start, BATCH_ROWS)
            yield ManifestBatch(rows, self.source, start, rows.select(list(own)))

    def identity(self) -> str:
        """See `Manifest`."""
        digest = hashlib.sha256()
        for batch in self.batches():
            for name in ("image_id", "uri", "version"):
                digest.update(json.dumps(batch.rows[name].to_pylist()).encode())
        return digest.hexdigest()


@dataclass
class _Derived:
    """Another manifest, and all that is said of it; a subclass changes its rows."""

    manifest: Manifest

    @property
    def source(self) -> str:
        return self.manifest.source

    @property
    def notes(self) -> list[str]:
        return self.manifest.notes

    @property
    def is_listed(self) -> bool:
        return self.manifest.is_listed

    def columns(self) -> pa.Schema:
        return self.manifest.columns()


@dataclass
class _Prefixed(_Derived):
    """Another manifest with a prefix before each id."""

    id_prefix: str

    @property
    def coverage(self) -> Coverage | None:
        found = self.manifest.coverage
        return found and replace(found, id_prefix=self.id_prefix)

    def identity(self) -> str:
        return f"{self.manifest.identity()} ids={self.id_prefix!r}"

    def batches(self, own: Sequence[str] = (), *, keys: bool = True) -> Iterator[ManifestBatch]:
        for batch in self.manifest.batches(own, keys=keys):
            ids = pc.binary_join_element_wise(self.id_prefix, batch.rows["image_id"], "")
            yield replace(batch, rows=batch.rows.set_column(0, ROWS.field("image_id"), ids))


@dataclass
class _Head(_Derived):
    """The first rows of another manifest."""

    limit: int
    coverage: Coverage | None = None

    @property
    def id_prefix(self) -> str:
        return self.manifest.id_prefix

    def identity(self) -> str:
        return f"{self.manifest.identity()}[:{self.limit}]"

    def batches(self, own: Sequence[str] = (), *, keys: bool = True) -> Iterator[ManifestBatch]:
        left = self.limit
        for batch in self.manifest.batches(own, keys=keys):
            carried = batch.own.slice(0, left) if batch.own is not None else None
            yield ManifestBatch(batch.rows.slice(0, left), batch.file, batch.first_row, carried)
            left -= batch.rows.num_rows if batch.own is None else batch.own.num_rows
            if left <= 0:
                return


def _file_rows(files: list[ListedFile]) -> pa.Table:
    return _rows([f.image_id for f in files], [f.path for f in files], [f.version for f in files], [None] * len(files))


def _rows(ids: list[str], uris: list[str], versions: list[str | None], gt_scores: Iterable[float | None]) -> pa.Table:
    empty = [pa.nulls(len(ids), field.type) for field in ROWS if field.name.startswith("source_")]
    strings = [pa.array(values, pa.string()) for values in (ids, uris, versions)]
    return pa.table([*strings, *empty, pa.array(gt_scores, pa.float64())], schema=ROWS)


def _read_test_json(source: str, options: ManifestOptions) -> ListedManifest:
    try:
        with open_source(source) as file:
            entries = json.load(file)
    except FileNotFoundError:
        raise ManifestError(f"{source}: there is no such file.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{source}: is not valid JSON: {error}.") from error
    if not isinstance(entries, list):
        raise ManifestError(f'{source}: is not a list of {{"image": …, "gt_score": …}}.')
    base = absolute_base(options.images) if options.images else _images_beside(source)
    rows: dict[str, tuple[str, str | None, float | None]] = {}
    for number, entry in enumerate(entries):
        image = entry.get("image") if isinstance(entry, dict) else None
        if not isinstance(image, str) or not image or not is_unicode(image):
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
    return ListedManifest(source, _rows(list(rows), list(uris), list(versions), truths), notes, Coverage(None))


def _images_beside(source: str) -> str:
    folder = os.path.dirname(source) if source.startswith("s3://") else os.path.dirname(os.path.abspath(source))
    beside = f"{folder}/images"
    return beside if source.startswith("s3://") or os.path.isdir(beside) else folder
