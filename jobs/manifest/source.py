"""Anything that names images → one manifest, streamed.

A source is a folder (or a prefix of a bucket, or a data set on the hub), a glob, tar files of images, a table (Parquet,
Arrow, CSV or JSON lines: a file, a folder or a glob of them; Delta; Lance; with uris or with the images
themselves), or a benchmark's `test.json`. All of them become batches of the same columns. Only names of images are read
here, never an image.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from fnmatch import fnmatchcase
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from artimuse_actor.errors import ManifestError, UsageError
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.images.options import FORMATS
from artimuse_actor.uris import BUCKETS, canonical_uri, uri_scheme
from jobs.manifest.braces import has_braces
from jobs.manifest.delta import LOG, current_files, is_delta
from jobs.manifest.derived import Derived, FirstOfEach, Head, Part, Prefixed
from jobs.manifest.double_ids import DoubleIds
from jobs.manifest.hub import list_hub, names_data_set
from jobs.manifest.id_index import hash_strings
from jobs.manifest.img2dataset import failed_note, failed_rows, shard_tables, tables_beside
from jobs.manifest.lance import lance_table
from jobs.manifest.listed import ListedManifest, file_rows, read_test_json
from jobs.manifest.listing import A_STORE, ListedFile, Listing, list_braces, list_files, list_web
from jobs.manifest.manifest import FIRST, Coverage, Manifest, ManifestOptions
from jobs.manifest.questions import question_manifest
from jobs.manifest.table_rows import folder_of
from jobs.manifest.tables import TableManifest
from jobs.manifest.tar_index import PACKED_TARS, TarIndexes, packed_tar
from jobs.manifest.tars import TarManifest, is_tar
from jobs.storage.place import Place
from jobs.storage.user_files import is_hidden, is_there, open_source, other_file, write_user_file
from jobs.storage.user_tables import ARROW, PARQUET, TABLES, TEXTS, is_table
from jobs.words import by_count
from schemas.manifest import MANIFEST

_TAKEN: Final = (
    "Taken are folders, prefixes and globs of images; tar files of images (.tar); tables of them "
    f"({', '.join((*PARQUET, *ARROW, *TEXTS))}); and a benchmark's test.json."
)
_ELSEWHERE: Final = {
    "adl": "Data Lake Storage Gen2 and blobs are: write az://container/path or abfss://container@account…/path.",
    "hdfs": "Copy it to a disk or to a bucket.",
}
_HEAD_BYTES: Final = 64
_WRITE: Final = "Write what it holds now as Parquet, and name that."
_OTHER_TABLES: Final = {
    f"{LOG}/*": "a part of a Delta table, whose files alone do not say which rows were removed. Name the table itself.",
    "_versions/*.manifest": f"a part of a Lance data set, or not called .lance. Name the data set itself. {_WRITE}",
    ".hoodie/*": f"a Hudi table, whose files alone do not say which rows were removed. {_WRITE}",
    "metadata/*.metadata.json": f"an Iceberg table, whose files alone do not say which rows were removed. {_WRITE}",
}


def open_manifest(
    source: str,
    options: ManifestOptions = ManifestOptions(),
    fetching: FetchOptions = FetchOptions(),
    keep: Place | None = None,
) -> Manifest:
    """Open a source as the kind of manifest that it is.

    Args:
        source: see the module.
        options: how it is read.
        fetching: how tars of web servers are read.
        keep: where indexes of tars are kept for the next time, such as a store; they are written when rows are read.

    Raises:
        ManifestError: there is nothing of that name, or nothing in it.
        UsageError: it is of no kind that is read, or an option does not fit it.
    """
    if options.limit is not None and options.limit < 1:
        raise UsageError("--limit takes a whole number from 1.")
    manifest = _open_manifest(canonical_uri(source), options, fetching, keep)
    if options.on_duplicate == FIRST:
        manifest = FirstOfEach(manifest)
    if options.id_prefix:
        manifest = Prefixed(manifest, options.id_prefix)
    if (part := options.part) is not None:
        manifest = Part(manifest, *part)
    return manifest if options.limit is None else Head(manifest, options.limit)


def open_tars(source: str, options: ManifestOptions = ManifestOptions()) -> Manifest | None:
    """A source of tar files; None if it is another one. Raises as `open_manifest`."""
    if is_table(source) or source.lower().endswith(".json"):
        return None
    inner = manifest = open_manifest(source, options)
    while isinstance(inner, Derived):
        inner = inner.manifest
    return manifest if isinstance(inner, TarManifest) else None


def _open_manifest(source: str, options: ManifestOptions, fetching: FetchOptions, keep: Place | None) -> Manifest:
    scheme = uri_scheme(source)
    if source.lower().endswith(PACKED_TARS):
        raise packed_tar(source)
    if scheme in ("http", "https"):
        if not is_tar(source):
            raise UsageError(
                f"{source}: on the web only tar files are sources; images are named by a table of their urls."
            )
        web = list_web(source, fetching)
        return _tars(source, web.named, web, options, fetching, keep)
    if scheme not in ("file", "hf", *BUCKETS):
        raise UsageError(
            f"{source}: {scheme}:// is no place that sources are read from. {_ELSEWHERE.get(scheme, _TAKEN)}"
        )
    if options.as_questions:
        return question_manifest(source, options)
    if source.lower().endswith(".json") and scheme != "hf":
        return read_test_json(source, options)
    if table := lance_table(source):
        return TableManifest(source, [table], options, coverage=Coverage(None))
    files = _listed(source, options)
    tars = [file for file in files.named if is_tar(file.path) and not is_hidden(file.image_id)]
    tables = [file for file in files.named if is_table(file.path) and not is_hidden(file.image_id)]
    # A pattern or a single name is taken literally; from a folder, only files with an image suffix are taken.
    pictures = files.pictures if not files.by_pattern else [f for f in files.named if not is_table(f.path)]
    if tars and (len(tars) == len(files.named) or not (files.by_pattern or files.pictures)):
        return _tars(source, tars, files, options, fetching, keep)
    if tables and files.by_pattern:
        pictures = [file for file in pictures if not is_hidden(file.image_id)]  # such as Spark's _SUCCESS
    if tables and not pictures:
        return _tables(source, tables, files, options)
    if tables and files.by_pattern:
        raise ManifestError(f"{source}: matches tables and other files. Name one kind, such as {source}.parquet.")
    if not pictures:
        _refuse_other_formats(source, files, [])
        found = by_count(files.skipped, at_most=5) or "nothing"
        raise ManifestError(f"{source}: there is no image and no table in it (found: {found}).")
    if not files.pictures and not _begins_like_picture(pictures[0].path):
        raise UsageError(f"{source}: is called like no image and no table, and does not begin like an image. {_TAKEN}")
    _refuse_table_options(source, options)
    notes = [*files.notes(), *failed_note(failed_rows(shard_tables(pictures, files.named)))]
    return ListedManifest(source, file_rows(pictures), notes, files.coverage)


def _listed(source: str, options: ManifestOptions) -> Listing:
    is_here = os.path.lexists(os.path.expanduser(source))
    asks_hub = options.hf_config is not None or options.split is not None
    if uri_scheme(source) == "hf" or (asks_hub and names_data_set(source) and not is_here):
        return list_hub(source, options.hf_config, options.split)
    if asks_hub:
        raise UsageError(
            f"--hf-config and --split are of data sets on the hub; {source} is none. Write hf://datasets/…"
        )
    if names_data_set(source) and not is_here:
        raise ManifestError(
            f"{source}: there is no such file or folder. A data set on the hub is hf://datasets/{source}, or this with "
            "--split."
        )
    if has_braces(source) and not is_here:
        return list_braces(source)
    return list_files(source)


def _tars(
    source: str,
    tars: list[ListedFile],
    files: Listing,
    options: ManifestOptions,
    fetching: FetchOptions,
    keep: Place | None,
) -> TarManifest:
    _refuse_table_options(source, options)
    listed = None if glob.has_magic(source) or has_braces(source) else Coverage(None, files.unseen)
    beside = tables_beside(tars, files.named)
    return TarManifest(source, tars, options, TarIndexes(keep, fetching, len(tars)), fetching, listed, beside)


def _tables(source: str, tables: list[ListedFile], files: Listing, options: ManifestOptions) -> TableManifest:
    """The tables of one kind: Parquet if there are such, else Arrow, else texts."""
    if is_delta(files.named):
        tables = current_files(source, files.named)
    else:
        _refuse_other_formats(source, files, tables)
    chosen = next(found for kind in (PARQUET, ARROW, TEXTS) if (found := [t for t in tables if _is(t.path, kind)]))
    notes = []
    paths = {file.path for file in chosen}
    if others := Counter(_suffix(file.path) for file in tables if file.path not in paths):
        if files.by_pattern:
            raise ManifestError(f"{source}: matches tables of several kinds. Name one, such as {source}.parquet.")
        notes = [f"Left out, beside tables of another kind: {by_count(others)}."]
    looked_for = (folder for folder in (*files.unlisted, *files.empty) if not folder.endswith(A_STORE))
    unseen = any(not is_hidden(folder.removeprefix(f"{files.root}/")) for folder in looked_for)
    coverage = None if glob.has_magic(source) else Coverage(None, ("",) if unseen else ())
    return TableManifest(source, chosen, options, notes, coverage)


def _refuse_table_options(source: str, options: ManifestOptions) -> None:
    """Refuse options that say which columns are read, where nothing has columns. Raises UsageError."""
    if options.images:
        raise UsageError(f"--images goes with a test.json or a table; {source} is neither.")
    for name in ("id_column", "id_columns", "uri_column", "image_column"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} goes with a table; {source} is none. Ids are paths below it.")


def _is(path: str, suffixes: tuple[str, ...]) -> bool:
    return path.lower().endswith(suffixes)


def _suffix(path: str) -> str:
    return next(suffix for suffix in reversed(TABLES) if path.lower().endswith(suffix))


def _refuse_other_formats(source: str, files: Listing, tables: list[ListedFile]) -> None:
    """Refuse tables whose files are only a part of what they are. Raises UsageError."""
    above = {folder_of(file.path) for file in tables} if uri_scheme(source) == "file" else set()
    above |= {files.root} if files.root else set()
    for mark, advice in _OTHER_TABLES.items():
        inside = any(fnmatchcase(f"/{file.image_id}", f"*/{mark}") for file in files.named)
        if inside or any(glob.glob(f"{glob.escape(folder)}/{mark}") for folder in above):
            raise UsageError(f"{source}: is {advice}")


def _begins_like_picture(path: str) -> bool:
    """Whether the first bytes of a file are those of an image; True if they cannot be read, which loading will say."""
    try:
        with open_source(path) as file:
            head = file.read(_HEAD_BYTES).ljust(_HEAD_BYTES, b"\0")  # as much as Pillow asks for
    except OSError:
        return True
    # Imported here: the libraries of HEIC and JPEG XL are not needed for most sources.
    from artimuse_actor.images.plugins import register_plugins

    register_plugins()
    accepts = (accept for name in FORMATS if (accept := Image.OPEN[name][1]) is not None)
    return any(accept(head) is True for accept in accepts)


def write_manifest(manifest: Manifest, out: str) -> int:
    """Write a manifest as one Parquet file; an earlier one is replaced, anything else is not.

    Returns:
        The number of rows.

    Raises:
        ManifestError: its images are embedded, so it is a table already and can be used as it is; an id is there twice.
        UsageError: the name has no Parquet suffix, so `score` would not read the file as a manifest, or another file is
            there.
        StoreError: it cannot be written.
    """
    if not _is(out, PARQUET):
        raise UsageError(f"--out {out}: a manifest is called something.parquet, so that `score` knows it for one.")
    if is_there(out) and not _is_manifest(out):
        raise other_file("--out", out, "manifest")
    rows, doubles = 0, DoubleIds(manifest)
    with write_user_file(out) as growing, pq.ParquetWriter(growing, MANIFEST, compression="zstd") as writer:
        for batch in manifest.batches():
            if batch.rows["uri"].null_count:
                raise ManifestError(f"{manifest.source}: holds its images itself; use it as it is.")
            doubles.add(batch, hash_strings(batch.rows["image_id"]))
            writer.write_table(batch.rows.select(MANIFEST.names).cast(MANIFEST))
            rows += batch.rows.num_rows
        doubles.refuse()
    return rows


def _is_manifest(path: str) -> bool:
    """Whether a file has the columns of a manifest and no others."""
    try:
        with open_source(path) as file:
            return bool(pq.read_schema(file).names == MANIFEST.names)
    except (pa.ArrowInvalid, OSError):
        return False
