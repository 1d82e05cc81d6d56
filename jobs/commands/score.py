"""The command `artimuse score`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from artimuse_actor.errors import UsageError
from jobs.commands.options import (
    DECODER_MEMORY_BYTES,
    DECODER_TIMEOUT_S,
    MAX_BYTES,
    MAX_PIXELS,
    Actors,
    ActorsPerGpu,
    AddMixed,
    AllowPrivateHosts,
    AllowTruncated,
    AsJson,
    Attributes,
    BatchSize,
    Checkpoint,
    Decode,
    DecoderMemory,
    DecoderTimeout,
    Device,
    Dtype,
    ExifRotate,
    HfConfig,
    Hub,
    IdColumn,
    IdColumns,
    IdPrefix,
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
    Questions,
    Root,
    Sequences,
    Shard,
    Source,
    Split,
    Texts,
    UriColumn,
    count_or_auto,
    decode_options,
    share,
    wanted_texts,
)
from jobs.commands.times import end_of_time
from jobs.words import show

if TYPE_CHECKING:
    from jobs.plan.stored_rows import RetryErrors

FAILED_TOO_MANY: Final = 3
_ALL_ERRORS: Final = "all"


def score(
    context: typer.Context,
    source: Source,
    out: Annotated[
        str,
        typer.Option(metavar="OUT", help="Folder or prefix (s3://, gs://, az://) of the results.", show_default=False),
    ],
    checkpoint: Checkpoint = "ArtiMuse",
    hub: Hub = "huggingface",
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
    id_prefix: IdPrefix = None,
    limit: Limit = None,
    shard: Shard = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    allow_mixed: AddMixed = False,
    actors: Actors = None,
    actors_per_gpu: ActorsPerGpu = 1,
    batch_size: BatchSize = "auto",
    unit_size: Annotated[
        int | None, typer.Option(metavar="N", help="Rows that are retried together. [default: 16 to 200]")
    ] = None,
    keep_distribution: Annotated[
        bool, typer.Option("--keep-distribution", help="Also keep the probabilities of the 101 levels.")
    ] = False,
    texts: Texts = False,
    attributes: Attributes = None,
    max_new_tokens: MaxNewTokens = None,
    sequences: Sequences = "auto",
    questions: Questions = False,
    retry_errors: Annotated[
        str | None,
        typer.Option(
            metavar="all|TYPE,…",
            help="Score only rows that failed: all that may succeed now, or all of these error types. Without it, new "
            "and changed images are scored and failures that may succeed now are tried again.",
            show_default=False,
        ),
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Drop the rows of images that SOURCE no longer has.")] = False,
    prune_max: Annotated[
        str, typer.Option(metavar="SHARE", help="Stop before anything is done if --prune would drop more of the rows.")
    ] = "10%",
    moved: Annotated[
        bool,
        typer.Option("--moved", help="SOURCE is where the images of OUT are now: rows of equal ids get its uris."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what --prune would drop; nothing is written.")
    ] = False,
    max_failed: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Leave with exit code 3 if more of the run's images could not be read. [default: if none could]",
            show_default=False,
        ),
    ] = None,
    decode: Decode = "exact",
    published_arithmetic: PublishedArithmetic = False,
    allow_truncated: AllowTruncated = False,
    exif_rotate: ExifRotate = False,
    preprocess: Preprocess = "published",
    max_bytes: MaxBytes = MAX_BYTES,
    max_pixels: MaxPixels = MAX_PIXELS,
    decoder_timeout: DecoderTimeout = DECODER_TIMEOUT_S,
    decoder_memory: DecoderMemory = DECODER_MEMORY_BYTES,
    root: Root = None,
    allow_private_hosts: AllowPrivateHosts = False,
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Join this Ray cluster, such as auto. [default: this machine alone]"),
    ] = None,
    local: Annotated[
        bool | None,
        typer.Option(
            "--local/--ray",
            help="Work in this process with one model, or start Ray also for few images. [default: by the number of "
            "images]",
            show_default=False,
        ),
    ] = None,
    max_time: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="End after 6h, 90m or 1h30m, with exit code 0; the next run goes on with what is left.",
            show_default=False,
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="HH:MM", help="End the same way when it is 07:00 here.", show_default=False),
    ] = None,
    quiet: Annotated[
        int,
        typer.Option(
            "--quiet",
            "-q",
            count=True,
            help="Print one line at the end; twice: only if there is something new, failed or left.",
            show_default=False,
        ),
    ] = 0,
    log_format: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help="What standard error gets: text, a line of progress; or json, an object a line for each unit.",
        ),
    ] = "text",
    as_json: AsJson = False,
) -> None:
    """Score every image of a manifest or folder. Run it again to go on where it stopped.

    With --texts each image also gets expert texts, in a second table; asked for later, they are added to the scores.
    """
    from artimuse_actor.checkpoint.names import named_on
    from artimuse_actor.fetch.options import FetchOptions
    from jobs.manifest.manifest import ManifestOptions
    from jobs.score.actor_pool import ActorPool
    from jobs.score.run import score as run
    from jobs.score.settings import ScoreSettings
    from jobs.score.signals import TimeIsUp
    from jobs.score.text import score_json, show_line, show_score
    from jobs.store.run_record import OUT_OF_TIME

    arguments = {name: value for name, value in context.params.items() if value is not None}
    fetch = FetchOptions(max_bytes, root, allow_private_hosts)
    settings = ScoreSettings(
        source=source,
        checkpoint=named_on(hub, checkpoint),
        out=out,
        manifest=ManifestOptions.from_arguments(locals()),
        decode=decode_options(locals()),
        fetch=fetch,
        protocol=protocol,
        published_arithmetic=published_arithmetic,
        device=device,
        dtype=dtype,
        quantize=quantize,
        allow_mixed=allow_mixed,
        batch_size=count_or_auto("--batch-size", batch_size),
        unit_size=unit_size,
        actors=ActorPool.parse(actors) if actors else None,
        actors_per_gpu=actors_per_gpu,
        keep_distribution=keep_distribution,
        texts=wanted_texts(texts, attributes, max_new_tokens),
        sequences=count_or_auto("--sequences", sequences),
        retry=_retry_errors(retry_errors, fetch.never_fails_by),
        prune=prune,
        prune_max=share("--prune-max", prune_max),
        moved=moved,
        dry_run=dry_run,
        max_failed=share("--max-failed", max_failed) if max_failed else None,
        address=address,
        local=local,
        log_format=log_format,
        quiet=quiet > 0,
        ends_at=end_of_time(max_time, until),
    )
    try:
        result = run(settings, arguments)
    except TimeIsUp:  # before scoring began, or after it had ended
        show("Time is up. What was committed stays; run the same command again to go on.", file=sys.stderr)
        if as_json:
            print(json.dumps({"state": OUT_OF_TIME}))
        return
    if as_json:
        print(json.dumps(score_json(result)))
    elif quiet:
        show_line(result, settings, only_news=quiet > 1)
    else:
        show_score(result, settings)
    if result.failed_too_many(settings.max_failed):
        show("More images could not be read than allowed, see --max-failed.", file=sys.stderr)
        raise typer.Exit(FAILED_TOO_MANY)


def _retry_errors(types: str | None, lifted: tuple[str, ...]) -> RetryErrors:
    from artimuse_actor.errors import IMAGE_ERROR_TYPES
    from jobs.plan.stored_rows import RetryErrors

    if types is None or types == _ALL_ERRORS:
        return RetryErrors(alone=types is not None, lifted=lifted)
    names = [name.strip() for name in types.split(",")]
    unknown = [name for name in names if name not in IMAGE_ERROR_TYPES]
    if unknown:
        raise UsageError(
            f"--retry-errors: there are no errors of type {unknown[0]!r}. Types are {_ALL_ERRORS}, "
            f"{', '.join(IMAGE_ERROR_TYPES)}."
        )
    return RetryErrors(tuple(sorted(set(names))), alone=True)
