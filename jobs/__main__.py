"""The `artimuse` command: arguments in, exit code out."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import sys
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from artimuse_actor.errors import ArtiMuseError, UsageError
from jobs.curate_command import curate
from jobs.evaluate_commands import benchmark, evaluate
from jobs.options import (
    DECODER_MEMORY_BYTES,
    DECODER_TIMEOUT_S,
    MAX_BYTES,
    MAX_PIXELS,
    Actors,
    ActorsPerGpu,
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
    IdColumn,
    Images,
    Limit,
    MaxBytes,
    MaxNewTokens,
    MaxPixels,
    Protocol,
    Questions,
    Root,
    Sequences,
    Source,
    Texts,
    UriColumn,
    count_or_auto,
    example,
    wanted_texts,
)
from jobs.plan_command import plan
from jobs.report_command import report

# Heavy modules are imported where they are used: `artimuse --help` answers in a fraction of a second.


# typer carries a click of its own; this is the public way to the base of its errors.
_ClickException: Any = typer.BadParameter.__mro__[2]


INTERRUPTED, TERMINATED = 130, 143
ALL_ERRORS = "all"

app = typer.Typer(
    name="artimuse",
    help="Score image collections for aesthetics with the published ArtiMuse checkpoints.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.callback(epilog=example("artimuse demo"))
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    """Score image collections for aesthetics with the published ArtiMuse checkpoints."""
    if debug:
        os.environ["ARTIMUSE_DEBUG"] = "1"


@app.command(
    epilog=example(
        "artimuse score photos --checkpoint ArtiMuse --out scored",
        "artimuse score s3://photos/manifest --checkpoint ArtiMuse_AVA --out s3://photos/scores",
        "artimuse score photos --out scored --texts --attributes 'Composition & Design,Technical Execution'",
    )
)
def score(
    context: typer.Context,
    source: Source,
    out: Annotated[str, typer.Option(metavar="OUT", help="Folder or s3:// prefix of the results.", show_default=False)],
    checkpoint: Checkpoint = "ArtiMuse",
    protocol: Protocol = None,
    images: Images = None,
    id_column: IdColumn = None,
    uri_column: UriColumn = None,
    limit: Limit = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
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
    questions: Questions = False,  # noqa: ARG001 - its callback answers
    retry_errors: Annotated[
        str | None,
        typer.Option(
            metavar="[TYPE,…]",
            help="Score only rows that failed: all that may succeed now, or all of these error types. Without it, new "
            "and changed images are scored and failures that may succeed now are tried again.",
            show_default=False,
        ),
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Drop the rows of images that SOURCE no longer has.")] = False,
    decode: Decode = "exact",
    allow_truncated: AllowTruncated = False,
    exif_rotate: ExifRotate = False,
    max_bytes: MaxBytes = MAX_BYTES,
    max_pixels: MaxPixels = MAX_PIXELS,
    decoder_timeout: DecoderTimeout = DECODER_TIMEOUT_S,
    decoder_memory: DecoderMemory = DECODER_MEMORY_BYTES,
    root: Root = None,
    allow_private_hosts: AllowPrivateHosts = False,
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Join this Ray cluster, such as auto. [default: start Ray here]"),
    ] = None,
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
    from artimuse_actor.fetch_options import FetchOptions
    from artimuse_actor.images import DecodeOptions
    from jobs.actor_pool import ActorPool
    from jobs.manifest import ManifestOptions
    from jobs.score import ScoreSettings
    from jobs.score import score as run
    from jobs.screens import score_json, show_score

    arguments = {name: value for name, value in context.params.items() if value is not None}
    settings = ScoreSettings(
        source=source,
        checkpoint=checkpoint,
        out=out,
        manifest=ManifestOptions(images=images, id_column=id_column, uri_column=uri_column, limit=limit),
        decode=DecodeOptions(
            decode,  # type: ignore[arg-type]
            allow_truncated,
            exif_rotate,
            max_bytes,
            max_pixels,
            decoder_timeout,
            decoder_memory,
        ),
        fetch=FetchOptions(max_bytes, root, allow_private_hosts),
        protocol=protocol,
        device=device,
        dtype=dtype,
        batch_size=count_or_auto("--batch-size", batch_size),
        unit_size=unit_size,
        actors=ActorPool.parse(actors) if actors else None,
        actors_per_gpu=actors_per_gpu,
        keep_distribution=keep_distribution,
        texts=wanted_texts(texts, attributes, max_new_tokens),
        sequences=count_or_auto("--sequences", sequences),
        retry=_retry_errors(retry_errors),
        prune=prune,
        address=address,
        log_format=log_format,
    )
    result = run(settings, arguments)
    if as_json:
        print(json.dumps(score_json(result)))
    else:
        show_score(result, settings)


app.command(
    epilog=example(
        "artimuse plan photos --checkpoint ArtiMuse",
        "artimuse plan s3://photos/manifest --images-per-s 70 --gpus 100 --price 2.5 --gbit-per-s 100",
        "artimuse plan photos --checkpoint ArtiMuse --texts --out scored --json",
    )
)(plan)


@app.command(
    epilog=example("artimuse manifest test_datasets/AVA/test.json --images test_datasets/AVA/images --out ava.parquet")
)
def manifest(
    source: Source,
    out: Annotated[str, typer.Option(metavar="FILE", help="The Parquet file to write.", show_default=False)],
    images: Images = None,
    id_column: IdColumn = None,
    uri_column: UriColumn = None,
    limit: Limit = None,
) -> None:
    """Write the images of a source as a Parquet manifest.

    Its columns are image_id, uri, version and gt_score.
    """
    from jobs.manifest import ManifestOptions, open_manifest, write_manifest

    options = ManifestOptions(images=images, id_column=id_column, uri_column=uri_column, limit=limit)
    opened = open_manifest(source, options)
    rows = write_manifest(opened, out)
    for note in opened.notes:
        print(note, file=sys.stderr)
    print(f"{out}: {rows:,} images. Next: artimuse score {shlex.quote(out)} --out scored")


@app.command(epilog=example("artimuse status scored --json"))
def status(
    out: Annotated[str, typer.Argument(metavar="OUT", help="The --out of a run.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Tell what a store holds and how each run went.

    Rows planned, scored, failed by type and remaining; manifest and table are reconciled in one line.
    """
    from jobs.screens import show_status
    from jobs.status import store_status

    found = store_status(out)
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        show_status(found)


app.command(
    epilog=example(
        "artimuse evaluate ava --ground-truth test_datasets/AVA/test.json",
        "artimuse evaluate scored --ground-truth ratings.csv --on file_name --truth-column mos --by category",
        'artimuse evaluate ava --gate "srcc>=0.80" --require-complete --plots ava.svg',
    )
)(evaluate)
app.command(
    epilog=example(
        "artimuse benchmark AVA --root test_datasets --checkpoint ArtiMuse_AVA --out benchmarks",
        "artimuse benchmark all --root . --checkpoint ArtiMuse --checkpoint UniPercept --out benchmarks --markdown",
    )
)(benchmark)
app.command(
    epilog=example(
        "artimuse report scored --out report.html",
        "artimuse report scored --ground-truth ratings.csv --on file_name --truth-column mos --by category",
        "artimuse report s3://photos/scored --thumbnails 1000 --root s3://photos/raw",
    )
)(report)


app.command(
    epilog=example(
        "artimuse curate scored --top 10% --dedupe near --min-side 1024 --max-std 12 --out best.parquet",
        "artimuse curate scored --manifest photos.parquet --top 5000 --per category --out best.parquet",
        "artimuse curate scored --where \"width > height and not startswith(uri, 's3://old/')\" --out wide.jsonl",
        "artimuse curate scored --min-score 70 --as webdataset --out s3://photos/best",
    )
)(curate)


@app.command(epilog=example("artimuse compact scored --out scored-2026"))
def compact(
    store: Annotated[str, typer.Argument(metavar="OUT", help="The --out of runs.", show_default=False)],
    out: Annotated[str, typer.Option(metavar="NEW", help="Folder or s3:// prefix to make.", show_default=False)],
) -> None:
    """Write the many small files of nightly runs as few large ones, in a new store with the same rows.

    The old store stays as it is. Killed in the middle, run it again; then score into the new one.
    """
    from jobs.upkeep import compact as run

    done = run(store, out)
    print(f"{out}: {done.rows:,} rows in {done.files_after:,} files, {done.files_before:,} before.")


@app.command(epilog=example("artimuse image photo.jpg --checkpoint ArtiMuse --json"))
def image(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Paths or uris.", show_default=False)],
    checkpoint: Checkpoint = "ArtiMuse",
    protocol: Protocol = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_size: BatchSize = "auto",
    texts: Texts = False,
    attributes: Attributes = None,
    max_new_tokens: MaxNewTokens = None,
    sequences: Sequences = "auto",
    questions: Questions = False,  # noqa: ARG001 - its callback answers
    decode: Decode = "exact",
    allow_truncated: AllowTruncated = False,
    exif_rotate: ExifRotate = False,
    max_bytes: MaxBytes = MAX_BYTES,
    max_pixels: MaxPixels = MAX_PIXELS,
    root: Root = None,
    allow_private_hosts: AllowPrivateHosts = False,
    as_json: AsJson = False,
) -> None:
    """Score one image or a few, here and now, without Ray.

    With --texts --json one image prints as the published code has it. The exit code is 1 if one could not be read.
    """
    from artimuse_actor.fetch_options import FetchOptions
    from artimuse_actor.images import DecodeOptions
    from jobs.image import ImageSettings, score_files
    from jobs.screens import images_json, show_image

    settings = ImageSettings(
        checkpoint=checkpoint,
        protocol=protocol,
        device=device,
        dtype=dtype,
        batch_size=count_or_auto("--batch-size", batch_size),
        texts=wanted_texts(texts, attributes, max_new_tokens),
        sequences=count_or_auto("--sequences", sequences),
        options=DecodeOptions(decode, allow_truncated, exif_rotate, max_bytes, max_pixels),  # type: ignore[arg-type]
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


@app.command(epilog=example("artimuse demo --out artimuse-demo"))
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make.")] = Path("artimuse-demo"),
) -> None:
    """Make a small photo library, score it, compare with the truth.

    Takes about a minute on a laptop; needs no GPU and downloads nothing.
    """
    from jobs.demo.run import run_demo

    run_demo(out)


def _retry_errors(types: str | None) -> Any:
    from artimuse_actor.errors import IMAGE_ERROR_TYPES
    from jobs.held import RetryErrors

    if types is None or types == ALL_ERRORS:
        return RetryErrors(alone=types is not None)
    names = [name.strip() for name in types.split(",")]
    unknown = [name for name in names if name not in IMAGE_ERROR_TYPES]
    if unknown:
        raise UsageError(
            f"--retry-errors: there are no errors of type {unknown[0]!r}. Types are {', '.join(IMAGE_ERROR_TYPES)}."
        )
    return RetryErrors(tuple(sorted(set(names))), alone=True)


def _with_all_errors(arguments: list[str]) -> list[str]:
    """A bare `--retry-errors` gets its value written out, since typer knows no option with or without one."""
    from artimuse_actor.errors import IMAGE_ERROR_TYPES

    given = []
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        has_value = set(following.split(",")) <= set(IMAGE_ERROR_TYPES)
        given.append(f"{argument}={ALL_ERRORS}" if argument == "--retry-errors" and not has_value else argument)
    return given


def _fail(error: ArtiMuseError) -> int:
    if os.environ.get("ARTIMUSE_DEBUG"):
        raise error
    from artimuse_actor.uris import without_secrets

    print(f"{type(error).__name__}: {without_secrets(str(error))}", file=sys.stderr)
    return error.exit_code


def main() -> NoReturn:
    """The entry point: 0 done, 1 the run stopped, 2 wrong usage, 130 interrupted, 143 terminated."""
    from jobs.interrupts import was_terminated

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        code = app(_with_all_errors(sys.argv[1:]), standalone_mode=False)
    except ArtiMuseError as error:
        code = _fail(error)
    except _ClickException as error:
        error.show()
        code = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except BrokenPipeError:
        code = 1
    except Exception as error:
        if os.environ.get("ARTIMUSE_DEBUG"):
            raise
        detail = " ".join(str(error).split())[:500]
        print(
            f"{type(error).__name__}: {detail}. This was not foreseen; `artimuse --debug …` shows where.",
            file=sys.stderr,
        )
        code = 1
    if code == INTERRUPTED:  # typer may have caught it first, and calls every KeyboardInterrupt the same
        code = TERMINATED if was_terminated() else INTERRUPTED
        print("Interrupted. What was committed stays; run the same command again to go on.", file=sys.stderr)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    # pyarrow's threads may let go of a file when Python has begun to end, which aborts the process: now and then a
    # run that had done everything ended with code 134. There is nothing left to clean up.
    os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
