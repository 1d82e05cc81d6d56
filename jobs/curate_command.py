"""The command `artimuse curate`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from jobs.curate_options import (
    Aspect,
    CopyImages,
    CopyRoot,
    CuratedOut,
    CurateManifest,
    Dedupe,
    Distance,
    FileFormat,
    MaxScore,
    MaxStd,
    MinScore,
    MinSide,
    OutputKind,
    Per,
    Sample,
    ScoreColumn,
    Seed,
    TextMatches,
    Top,
    Where,
)
from jobs.options import MAX_BYTES, AllowPrivateHosts, AsJson, IdColumn, Images, UriColumn


def curate(
    store: Annotated[str, typer.Argument(metavar="OUT", help="The --out of runs.", show_default=False)],
    out: CuratedOut,
    manifest: CurateManifest = None,
    images: Images = None,
    id_column: IdColumn = None,
    uri_column: UriColumn = None,
    min_score: MinScore = None,
    max_score: MaxScore = None,
    max_std: MaxStd = None,
    min_side: MinSide = None,
    aspect: Aspect = None,
    file_format: FileFormat = None,
    where: Where = None,
    text_matches: TextMatches = None,
    dedupe: Dedupe = None,
    distance: Distance = None,
    top: Top = None,
    per: Per = None,
    sample: Sample = None,
    seed: Seed = 0,
    score_column: ScoreColumn = None,
    kind: OutputKind = None,
    copy: CopyImages = False,
    root: CopyRoot = None,
    allow_private_hosts: AllowPrivateHosts = False,
    as_json: AsJson = False,
) -> None:
    """Choose from what is scored, as a manifest, a table or a WebDataset, and see what each condition removes.

    Nothing is scored again. Whatever their order here, conditions on single rows come first, then --dedupe, then --top,
    then --sample. A higher score comes first, of equal ones the smaller image_id in order of bytes. The columns are
    those of --manifest and the scores, or without it those of the store.
    """
    from artimuse_actor.fetch_options import FetchOptions
    from jobs.curate import CurateSettings
    from jobs.curate import curate as run
    from jobs.filters import FilterOptions
    from jobs.manifest import ManifestOptions
    from jobs.screens import show_curation

    settings = CurateSettings(
        store=store,
        out=out,
        manifest=manifest,
        manifest_options=ManifestOptions(images=images, id_column=id_column, uri_column=uri_column),
        filters=FilterOptions(min_score, max_score, max_std, min_side, aspect, file_format, where, text_matches),
        score_column=score_column,
        dedupe=dedupe,
        distance=distance,
        top=top,
        per=per,
        sample=sample,
        seed=seed,
        kind=kind,
        copy=copy,
        fetch=FetchOptions(MAX_BYTES, root, allow_private_hosts),
    )
    done = run(settings)
    if as_json:
        print(json.dumps(done.record))
    else:
        show_curation(done)
