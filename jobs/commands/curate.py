"""The command `artimuse curate`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from jobs.commands.options import (
    MAX_BYTES,
    AllowPrivateHosts,
    AsJson,
    HfConfig,
    IdColumn,
    IdColumns,
    ImageColumn,
    Images,
    OnBadRow,
    OnDuplicate,
    ReadMixed,
    Split,
    UriColumn,
)
from jobs.commands.times import duration

CuratedOut = Annotated[
    str,
    typer.Option(
        metavar="FILE|DIR",
        help="What to write: a file called .parquet, .jsonl or .csv, or a folder; local or in a bucket. An earlier "
        "curation is replaced, anything else is not.",
        show_default=False,
    ),
]
CurateManifest = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE",
        help="Choose among the rows of this source, as `score` takes it; its columns are carried through.",
        show_default=False,
    ),
]
MinScore = Annotated[float | None, typer.Option(metavar="POINTS", help="Drop lower scores.", show_default=False)]
MaxScore = Annotated[float | None, typer.Option(metavar="POINTS", help="Drop higher scores.", show_default=False)]
MaxStd = Annotated[
    float | None,
    typer.Option(metavar="POINTS", help="Drop what the model is less sure of (score_std).", show_default=False),
]
MinSide = Annotated[
    int | None, typer.Option(metavar="PIXELS", help="Drop images with a shorter side.", show_default=False)
]
Aspect = Annotated[
    str | None,
    typer.Option(
        metavar="W:H[..W:H]",
        help="Keep this aspect ratio (within 2%) or range, such as 16:9, 3:4..4:3 or 1:1.. (not upright).",
        show_default=False,
    ),
]
FileFormat = Annotated[
    str | None,
    typer.Option("--format", metavar="NAME,…", help="Keep these file formats, such as jpeg,png.", show_default=False),
]
Where = Annotated[
    str | None,
    typer.Option(
        metavar="SQL",
        help="Keep rows for which this holds: an SQL condition (DuckDB's) on columns of the store, its texts or the "
        "manifest, such as \"score > 60 AND uri NOT LIKE '%/old/%'\".",
        show_default=False,
    ),
]
TextMatches = Annotated[
    str | None,
    typer.Option(metavar="REGEX", help="Keep images one of whose texts matches (RE2).", show_default=False),
]
Dedupe = Annotated[
    str | None,
    typer.Option(
        metavar="exact|near",
        help="Of images with the same bytes, or with perceptual hashes that are nearly the same, keep the best-scored.",
        show_default=False,
    ),
]
Distance = Annotated[
    int | None,
    typer.Option(
        metavar="BITS", help="Between the hashes of near-duplicates, 0 to 12. [default: 10, less above 43,000 images]"
    ),
]
BestOf = Annotated[
    str | None,
    typer.Option(
        metavar="burst",
        help="Of pictures that one camera took within moments, and that look alike, keep the best-scored.",
        show_default=False,
    ),
]
Within = Annotated[
    str | None, typer.Option(metavar="TIME", help="Between two pictures of a burst, such as 5s. [default: 2s]")
]
Top = Annotated[
    str | None,
    typer.Option(metavar="N|N%", help="Keep the best so many, or a share (rounded up).", show_default=False),
]
Per = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Apply --top within each value of this column.", show_default=False),
]
Sample = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Draw so many, spread over the scores (bins of 5 points) as they are.", show_default=False
    ),
]
Seed = Annotated[int, typer.Option(metavar="S", help="Which sample.")]
ScoreColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Which score counts, such as iqa. [default: the protocol's first]"),
]
OutputKind = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="KIND",
        help="parquet, jsonl, csv, or webdataset (tar files with the images). [default: by the name of --out]",
    ),
]
Timeout = Annotated[
    float, typer.Option(metavar="SECONDS", help="Stop if the conditions on single rows take longer than this.")
]
CopyRoot = Annotated[
    str | None,
    typer.Option(
        "--root",
        metavar="DIR",
        help="With --copy or --as webdataset, leave out images outside this folder or prefix.",
        show_default=False,
    ),
]
CopyImages = Annotated[
    bool,
    typer.Option(
        "--copy",
        help="Copy the images into the folder --out too, by the names of their ids, with the metadata.jsonl that "
        "imagefolder reads; uri tells where they lie there.",
    ),
]

TarSizeOption = Annotated[
    str | None,
    typer.Option(
        "--tar-size",
        metavar="N|SIZE",
        help="Images of a tar file, or its size, such as 1GB. [default: 10000 images]",
        show_default=False,
    ),
]
Keys = Annotated[
    str,
    typer.Option(
        metavar="number|source", help="Names of samples in tar files: numbers, or those in the tars they come from."
    ),
]
Caption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Column that is the .txt beside each image of a tar file: of the manifest, or a text of the store. "
        "[default: the .txt of the source]",
        show_default=False,
    ),
]

Order = Annotated[
    str, typer.Option(metavar="store|score", help="Order of the rows: as in the store or manifest, or the best first.")
]


CuratedStores = Annotated[
    list[str],
    typer.Argument(
        metavar="OUT…",
        help="The --out of runs; several, or a pattern such as 'runs/*', are read as one. NAME=OUT has its scores "
        "beside theirs, as NAME_score.",
        show_default=False,
    ),
]


def curate(
    stores: CuratedStores,
    out: CuratedOut,
    manifest: CurateManifest = None,
    images: Images = None,
    id_column: IdColumn = None,
    id_columns: IdColumns = None,
    uri_column: UriColumn = None,
    image_column: ImageColumn = None,
    hf_config: HfConfig = None,
    split: Split = None,
    on_bad_row: OnBadRow = "error",
    on_duplicate: OnDuplicate = "error",
    min_score: MinScore = None,
    max_score: MaxScore = None,
    max_std: MaxStd = None,
    min_side: MinSide = None,
    aspect: Aspect = None,
    file_format: FileFormat = None,
    where: Where = None,
    text_matches: TextMatches = None,
    timeout: Timeout = 3600.0,
    dedupe: Dedupe = None,
    distance: Distance = None,
    best_of: BestOf = None,
    within: Within = None,
    top: Top = None,
    per: Per = None,
    sample: Sample = None,
    seed: Seed = 0,
    score_column: ScoreColumn = None,
    kind: OutputKind = None,
    copy: CopyImages = False,
    tar_size: TarSizeOption = None,
    keys: Keys = "number",
    caption: Caption = None,
    order: Order = "store",
    root: CopyRoot = None,
    allow_private_hosts: AllowPrivateHosts = False,
    allow_mixed: ReadMixed = False,
    as_json: AsJson = False,
) -> None:
    """Choose from what is scored, as a manifest, a table or a WebDataset, and see what each condition removes.

    Nothing is scored again. Whatever their order here, conditions on single rows come first, then --dedupe, --best-of,
    --top and --sample. A higher score comes first, of equal ones the smaller image_id in order of bytes. The columns
    are those of --manifest and the scores, or without it those of the store.
    """
    from artimuse_actor.fetch.options import FetchOptions
    from jobs.curate.curate import CurateSettings
    from jobs.curate.curate import curate as run
    from jobs.curate.filters import FilterOptions
    from jobs.curate.text import show_curation
    from jobs.manifest.manifest import ManifestOptions

    settings = CurateSettings(
        store=stores[0],
        beside=tuple(stores[1:]),
        allow_mixed=allow_mixed,
        out=out,
        manifest=manifest,
        manifest_options=ManifestOptions.from_arguments(locals()),
        filters=FilterOptions(min_score, max_score, max_std, min_side, aspect, file_format, where, text_matches),
        timeout_s=timeout,
        score_column=score_column,
        dedupe=dedupe,
        distance=distance,
        best_of=best_of,
        within_s=duration("--within", within).total_seconds() if within is not None else None,
        top=top,
        per=per,
        sample=sample,
        seed=seed,
        kind=kind,
        copy=copy,
        tar_size=tar_size,
        keys=keys,
        caption=caption,
        order=order,
        fetch=FetchOptions(MAX_BYTES, root, allow_private_hosts),
    )
    done = run(settings)
    if as_json:
        print(json.dumps(done.record))
    else:
        show_curation(done)
