"""The command `artimuse serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.commands.options import (
    DECODER_MEMORY_BYTES,
    DECODER_TIMEOUT_S,
    MAX_BYTES,
    MAX_PIXELS,
    AllowTruncated,
    Attributes,
    BatchSize,
    Checkpoint,
    Decode,
    DecoderMemory,
    DecoderTimeout,
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
    Sequences,
    count_or_auto,
    decode_options,
    wanted_texts,
)

MAX_BODY, QUEUE, TIMEOUT_S, WAIT_MS = 64 * 1024 * 1024, 256, 60.0, 5.0
"""The same as in `Limits`, which a test checks."""


def serve(
    checkpoint: Checkpoint = "ArtiMuse",
    hub: Hub = "huggingface",
    protocol: Protocol = None,
    host: Annotated[
        str, typer.Option(metavar="NAME", help="Name or address to listen on; one that others reach needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="Port to listen on; 0 takes any that is free.")] = 8000,
    token_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="File with the token that clients send. [default: ARTIMUSE_SERVE_TOKEN in the environment, or a new "
            "one that is printed]",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    batch_size: BatchSize = "auto",
    texts: Annotated[bool, typer.Option("--texts", help="Also answer /describe: scores and texts.")] = False,
    attributes: Attributes = None,
    max_new_tokens: MaxNewTokens = None,
    sequences: Sequences = "auto",
    decode: Decode = "exact",
    published_arithmetic: PublishedArithmetic = False,
    allow_truncated: AllowTruncated = False,
    exif_rotate: ExifRotate = False,
    preprocess: Preprocess = "published",
    max_body: Annotated[
        int, typer.Option(metavar="BYTES", help="Larger bodies are refused (413); eight such fit in at a time.")
    ] = MAX_BODY,
    queue: Annotated[
        int,
        typer.Option(metavar="N", help="Pictures accepted and not answered yet; requests beyond it are refused (503)."),
    ] = QUEUE,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Requests that take longer are given up (408, 504).")
    ] = TIMEOUT_S,
    wait_ms: Annotated[
        float, typer.Option(metavar="MS", help="How long an idle model waits for more pictures of a batch.")
    ] = WAIT_MS,
    max_bytes: MaxBytes = MAX_BYTES,
    max_pixels: MaxPixels = MAX_PIXELS,
    decoder_timeout: DecoderTimeout = DECODER_TIMEOUT_S,
    decoder_memory: DecoderMemory = DECODER_MEMORY_BYTES,
) -> None:
    """Score pictures that are sent over HTTP, in one process: POST them to /score, or with --texts to /describe.

    Pictures of all requests are scored together. It listens on this machine alone unless --host says otherwise, and
    always asks for a token. SIGTERM and Ctrl-C end it, with exit code 0, when the requests in flight are answered.
    """
    from artimuse_actor.checkpoint.names import named_on
    from jobs.score.single_images import ImageSettings
    from jobs.serve.server import serve as run
    from jobs.serve.settings import Limits, ServeSettings

    model = ImageSettings(
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
    )
    run(ServeSettings(model, host, port, token_file, Limits(max_body, queue, timeout, wait_ms / 1000)))
