"""The command `artimuse manifest`."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from jobs.commands.options import (
    HfConfig,
    IdColumn,
    IdColumns,
    ImageColumn,
    Images,
    Limit,
    OnBadRow,
    OnDuplicate,
    Source,
    Split,
    UriColumn,
)
from jobs.words import show


def manifest(
    source: Source,
    out: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="The Parquet file to write. An earlier manifest is replaced, anything else is not.",
            show_default=False,
        ),
    ],
    images: Images = None,
    id_column: IdColumn = None,
    id_columns: IdColumns = None,
    uri_column: UriColumn = None,
    image_column: ImageColumn = None,
    hf_config: HfConfig = None,
    split: Split = None,
    on_bad_row: OnBadRow = "error",
    on_duplicate: OnDuplicate = "error",
    limit: Limit = None,
) -> None:
    """Write the images of a source as a Parquet manifest.

    Its columns are image_id, uri, version and gt_score.
    """
    from jobs.manifest.manifest import ManifestOptions
    from jobs.manifest.source import open_manifest, write_manifest
    from jobs.store.store import keep_out_of_stores

    keep_out_of_stores(out)
    options = ManifestOptions.from_arguments(locals())
    opened = open_manifest(source, options)
    rows = write_manifest(opened, out)
    for note in opened.notes:
        show(note, file=sys.stderr)
    show(f"{out}: {rows:,} images. Next: artimuse score {shlex.quote(out)} --out scored")
