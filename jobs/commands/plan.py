"""The command `artimuse plan`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from jobs.commands.options import (
    MAX_BYTES,
    MAX_PIXELS,
    AddMixed,
    AllowPrivateHosts,
    AllowTruncated,
    AsJson,
    Attributes,
    BatchSize,
    Decode,
    Device,
    Dtype,
    ExifRotate,
    HfConfig,
    Hub,
    IdColumn,
    IdColumns,
    ImageColumn,
    Images,
    Limit,
    MaxBytes,
    MaxNewTokens,
    MaxPixels,
    OnBadRow,
    OnDuplicate,
    Preprocess,
    Protocol,
    PublishedArithmetic,
    Quantize,
    Root,
    Shard,
    Source,
    Split,
    Texts,
    UriColumn,
    count_or_auto,
    decode_options,
    wanted_texts,
)


def plan(
    source: Source,
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="CKPT", help="As for score: the model to measure with, here.", show_default=False),
    ] = None,
    hub: Hub = "huggingface",
    gpus: Annotated[
        int | None, typer.Option(metavar="N", help="GPUs to work it out for. [default: those here, else 1]")
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(metavar="X", help="Of one GPU for one hour, in any currency.", show_default=False),
    ] = None,
    texts: Texts = False,
    images_per_s: Annotated[
        float | None,
        typer.Option(metavar="X", help="Scores of one GPU, if you know it: no model is loaded.", show_default=False),
    ] = None,
    texts_images_per_s: Annotated[
        float | None, typer.Option(metavar="X", help="The same with texts.", show_default=False)
    ] = None,
    cores: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="CPU cores of all machines together. [default: those here or, with --gpus, as many as it takes]",
            show_default=False,
        ),
    ] = None,
    gbit_per_s: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Network of all machines together. [default: as much as it takes]", show_default=False
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="OUT", help="The --out of the run: what it holds already costs nothing.", show_default=False
        ),
    ] = None,
    sample: Annotated[int, typer.Option(metavar="N", help="Images to draw and to measure, up to 1000.")] = 64,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the drawing.")] = 0,
    protocol: Protocol = None,
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
    shard: Shard = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    allow_mixed: AddMixed = False,
    batch_size: BatchSize = "auto",
    attributes: Attributes = None,
    max_new_tokens: MaxNewTokens = None,
    decode: Decode = "exact",
    published_arithmetic: PublishedArithmetic = False,
    allow_truncated: AllowTruncated = False,
    exif_rotate: ExifRotate = False,
    preprocess: Preprocess = "published",
    max_bytes: MaxBytes = MAX_BYTES,
    max_pixels: MaxPixels = MAX_PIXELS,
    root: Root = None,
    allow_private_hosts: AllowPrivateHosts = False,
    as_json: AsJson = False,
) -> None:
    """Tell what scoring a source would take: GPU-hours, CPU cores, bytes, files, money, and where the bottleneck lies.

    Nothing is written. The names are read once, a few images are drawn and measured here, and the rest is arithmetic.
    With --texts it is worked out for scores only and with texts.
    """
    from artimuse_actor.checkpoint.names import named_on
    from artimuse_actor.fetch.options import FetchOptions
    from jobs.forecast.forecast import look_ahead
    from jobs.forecast.settings import OutlookSettings
    from jobs.forecast.text import outlook_json, show_outlook
    from jobs.manifest.manifest import ManifestOptions

    settings = OutlookSettings(
        source=source,
        checkpoint=checkpoint and named_on(hub, checkpoint),
        out=out,
        manifest=ManifestOptions.from_arguments(locals()),
        decode=decode_options(locals()),
        fetch=FetchOptions(max_bytes, root, allow_private_hosts),
        protocol=protocol,
        published_arithmetic=published_arithmetic,
        device=device,
        dtype=dtype,
        quantize=quantize,
        allow_mixed=allow_mixed,
        batch_size=count_or_auto("--batch-size", batch_size),
        texts=wanted_texts(texts, attributes, max_new_tokens),
        images_per_s=images_per_s,
        texts_images_per_s=texts_images_per_s,
        sample=sample,
        seed=seed,
        gpus=gpus,
        cores=cores,
        gbit_per_s=gbit_per_s,
        price=price,
    )
    outlook = look_ahead(settings)
    if as_json:
        print(json.dumps(outlook_json(outlook)))
    else:
        show_outlook(outlook)
