"""Anything that names images → one manifest, streamed.

A source is a folder (or an s3:// prefix), a glob, a table (Parquet, Arrow, CSV or JSON lines: a file, a folder or a
glob of them, with uris or with the images themselves), or a benchmark's `test.json`. All of them become batches of the
same columns. Only names of images are read here, never an image.
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from typing import Final

import pyarrow.parquet as pq
from PIL import Image

from artimuse_actor.errors import ManifestError, UsageError
from artimuse_actor.images.options import FORMATS
from artimuse_actor.uris import canonical_uri, uri_scheme
from jobs.manifest.derived import FirstOfEach, Head, Prefixed
from jobs.manifest.listed import ListedManifest, file_rows, read_test_json
from jobs.manifest.listing import ListedFile, Listing, list_local, list_s3
from jobs.manifest.manifest import FIRST, Coverage, Manifest, ManifestOptions
from jobs.manifest.tables import TableManifest
from jobs.storage.user_files import is_hidden, names_parquet, open_source, write_user_file
from jobs.storage.user_tables import ARROW, PARQUET, TABLES, TEXTS, is_table
from schemas.manifest import MANIFEST

_TAKEN: Final = (
    "Taken are folders, prefixes and globs of images; tables of them "
    f"({', '.join((*PARQUET, *ARROW, *TEXTS))}); and a benchmark's test.json."
)
_ELSEWHERE: Final = {
    "gs": "Google's servers speak S3, too: set AWS_ENDPOINT_URL=https://storage.googleapis.com and an HMAC key, and "
    "write s3://.",
    **dict.fromkeys(
        ("az", "abfs", "abfss", "adl", "wasb", "wasbs"),
        "Copy the manifest here (azcopy), and name images in it as https:// urls with a SAS token.",
    ),
    "hdfs": "Copy it to a disk or to S3.",
}
_HEAD_BYTES: Final = 64
_OTHER_TABLES: Final = {
    "_delta_log": "a Delta table, whose files alone do not say which rows were removed",
    "_versions": "a Lance data set",
    ".hoodie": "a Hudi table, whose files alone do not say which rows were removed",
    "metadata/version-hint.text": "an Iceberg table, whose files alone do not say which rows were removed",
}


def open_manifest(source: str, options: ManifestOptions = ManifestOptions()) -> Manifest:
    """Open a source as the kind of manifest that it is.

    Raises:
        ManifestError: there is nothing of that name, or nothing in it.
        UsageError: it is of no kind that is read, or an option does not fit it.
    """
    if options.limit is not None and options.limit < 1:
        raise UsageError("--limit takes a whole number from 1.")
    manifest = _open_manifest(canonical_uri(source), options)
    if options.on_duplicate == FIRST:
        manifest = FirstOfEach(manifest)
    if options.id_prefix:
        manifest = Prefixed(manifest, options.id_prefix)
    return manifest if options.limit is None else Head(manifest, options.limit)


def _open_manifest(source: str, options: ManifestOptions) -> Manifest:
    scheme = uri_scheme(source)
    if scheme not in ("file", "s3"):
        raise UsageError(
            f"{source}: {scheme}:// is no place that sources are read from. {_ELSEWHERE.get(scheme, _TAKEN)}"
        )
    if source.lower().endswith(".json"):
        return read_test_json(source, options)
    files = list_s3(source) if scheme == "s3" else list_local(source)
    tables = [file for file in files.named if is_table(file.path) and not is_hidden(file.image_id)]
    # A pattern or a single name is taken literally; from a folder, only files with an image suffix are taken.
    pictures = files.pictures if not files.by_pattern else [f for f in files.named if not is_table(f.path)]
    if tables and files.by_pattern:
        pictures = [file for file in pictures if not is_hidden(file.image_id)]  # such as Spark's _SUCCESS
    if tables and not pictures:
        return _tables(source, tables, files, options)
    if tables and files.by_pattern:
        raise ManifestError(f"{source}: matches tables and other files. Name one kind, such as {source}.parquet.")
    if not pictures:
        found = ", ".join(f"{count} {suffix}" for suffix, count in files.skipped.most_common(5)) or "nothing"
        raise ManifestError(f"{source}: there is no image and no table in it (found: {found}).")
    if not files.pictures and not _begins_like_picture(pictures[0].path):
        raise UsageError(f"{source}: is called like no image and no table, and does not begin like an image. {_TAKEN}")
    if options.images:
        raise UsageError(f"--images goes with a test.json or a table; {source} is neither.")
    return ListedManifest(source, file_rows(pictures), files.notes(), files.coverage)


def _tables(source: str, tables: list[ListedFile], files: Listing, options: ManifestOptions) -> TableManifest:
    """The tables of one kind: Parquet if there are such, else Arrow, else texts."""
    _refuse_other_formats(source, files)
    chosen = next(found for kind in (PARQUET, ARROW, TEXTS) if (found := [t for t in tables if _is(t.path, kind)]))
    notes = []
    if others := Counter(_suffix(file.path) for file in tables if file not in chosen):
        if files.by_pattern:
            raise ManifestError(f"{source}: matches tables of several kinds. Name one, such as {source}.parquet.")
        notes = [f"Left out, beside tables of another kind: {', '.join(f'{n} {kind}' for kind, n in others.items())}."]
    coverage = None if glob.has_magic(source) else Coverage(None)
    return TableManifest(source, chosen, options, notes, coverage)


def _is(path: str, suffixes: tuple[str, ...]) -> bool:
    return path.lower().endswith(suffixes)


def _suffix(path: str) -> str:
    return next(suffix for suffix in reversed(TABLES) if path.lower().endswith(suffix))


def _refuse_other_formats(source: str, files: Listing) -> None:
    """Refuse tables whose files are only a part of what they are. Raises UsageError."""
    for mark, name in _OTHER_TABLES.items():
        inside = any(re.search(f"(^|/){re.escape(mark)}(/|$)", file.image_id) for file in files.named)
        beside = uri_scheme(source) == "file" and os.path.exists(os.path.join(os.path.expanduser(source), mark))
        if inside or beside:
            raise UsageError(f"{source}: is {name}. Write what it holds now as Parquet, and name that.")


def _begins_like_picture(path: str) -> bool:
    """Whether the first bytes of a file are those of an image; True if they cannot be read, which loading will say."""
    try:
        with open_source(path) as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return True
    Image.init()
    accepts = (accept for name in FORMATS if (accept := Image.OPEN[name][1]) is not None)
    return any(accept(head) is True for accept in accepts)


def write_manifest(manifest: Manifest, out: str) -> int:
    """Write a manifest as one Parquet file.

    Returns:
        The number of rows.

    Raises:
        ManifestError: its images are embedded, so it is a table already and can be used as it is.
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
