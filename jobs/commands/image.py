"""The command `artimuse image`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from jobs.commands.options import (
    MAX_BYTES,
    MAX_PIXELS,
    AllowPrivateHosts,
    AllowTruncated,
    AsJson,
    Attributes,
    BatchSize,
    Checkpoint,
    Decode,
    Device,
    Dtype,
    ExifRotate,
    Hub,
    MaxBytes,
    MaxNewTokens,
    MaxPixels,
    Preprocess,
    Protocol,
    PublishedArithmetic,
    Quantize,
    Questions,
    Root,
    Sequences,
    Texts,
    count_or_auto,
    decode_options,
    wanted_texts,
)


def image(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Paths or uris.", show_default=False)],
    checkpoint: Checkpoint = "ArtiMuse",
    hub: Hub = "huggingface",
    protocol: Protocol = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    batch_size: BatchSize = "auto",
    texts: Texts = False,
    attributes: Attributes = None,
    max_new_tokens: MaxNewTokens = None,
    sequences: Sequences = "auto",
    questions: Questions = False,
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
    """Score one image or a few, here and now, without Ray.

    With --texts --json one image prints as the published code has it. The exit code is 1 if one could not be read.
    """
    from artimuse_actor.checkpoint.names import named_on
    from artimuse_actor.fetch.options import FetchOptions
    from jobs.score.single_images import ImageSettings, score_files
    from jobs.score.single_images_text import images_json, show_image

    settings = ImageSettings(
        checkpoint=named_on(hub, checkpoint),
        protocol=protocol,
        published_arithmetic=published_arithmetic,
        device=device,
        dtype=dtype,
        quantize=quantize,
        batch_size=count_or_auto("--batch-size", batch_size),
        texts=wanted_texts(texts, attributes, max_new_tokens),
        sequences=count_or_auto("--sequences", sequences),
        options=decode_options(locals()),
        fetch=FetchOptions(max_bytes, root, allow_private_hosts),
    )
    results = []
    for result in score_files(files, settings):
        results.append(result)
        if not as_json:
            show_image(result)
    if as_json:
        print(json.dumps(images_json(results)))
    if any(result.error for result in results):
        raise typer.Exit(1)
