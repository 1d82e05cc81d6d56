"""The `artimuse` command: arguments in, exit code out."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from artimuse_actor.errors import ArtiMuseError, UsageError

# Heavy modules are imported where they are used: `artimuse --help` answers in a fraction of a second.


# typer carries a click of its own; this is the public way to the base of its errors.
_ClickException: Any = typer.BadParameter.__mro__[2]


def _example(*commands: str) -> str:
    """Lines to the letter (click folds others) below the options."""
    return "\b\nexample:\n" + "\n".join(f"  {command}" for command in commands)


INTERRUPTED = 130

app = typer.Typer(
    name="artimuse",
    help="Score image collections for aesthetics with the published ArtiMuse checkpoints.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder or s3:// prefix of images, a glob, a Parquet manifest (file, folder or glob; also with embedded "
        "images as on the Hugging Face hub), or a benchmark's test.json.",
        show_default=False,
    ),
]
Checkpoint = Annotated[
    str,
    typer.Option(
        metavar="CKPT",
        help="A local folder; ArtiMuse, ArtiMuse_AVA, ArtiMuse_FLICKR-AES, ArtiMuse_PARA, ArtiMuse_TAD66K or "
        "UniPercept; or owner/name[@revision] on the Hugging Face hub.",
    ),
]
Protocol = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="artimuse, unipercept, or a TOML file with questions of your own. [default: guessed from the "
        "checkpoint's name]",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Dtype = Annotated[str, typer.Option(help="auto (bfloat16 on CUDA, float32 on the CPU), float32, bfloat16 or float16.")]
BatchSize = Annotated[str, typer.Option(help="Images of one forward pass; auto asks the free memory of the device.")]
Images = Annotated[
    str | None,
    typer.Option(
        metavar="DIR", help="Where relative paths, and the images of a test.json, start from.", show_default=False
    ),
]
IdColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Column of a Parquet manifest that is the id. [default: image_id, else the uri]"),
]
UriColumn = Annotated[
    str | None, typer.Option(metavar="NAME", help="Column of a Parquet manifest with paths or uris. [default: uri]")
]
Limit = Annotated[int | None, typer.Option(metavar="N", help="Take only the first N rows.", show_default=False)]
Decode = Annotated[
    str,
    typer.Option(
        help="exact is the published preprocessing; fast shrinks large JPEGs while decoding (2.5 times quicker)."
    ),
]
AllowTruncated = Annotated[
    bool, typer.Option("--allow-truncated", help="Score files that end too early, grey below the cut.")
]
ExifRotate = Annotated[
    bool, typer.Option("--exif-rotate", help="Turn pictures by their EXIF tag; the published code does not.")
]
MaxBytes = Annotated[int, typer.Option(metavar="N", help="Larger files become error rows.")]
MaxPixels = Annotated[int, typer.Option(metavar="N", help="Larger pictures become error rows.")]
Texts = Annotated[bool, typer.Option("--texts", help="Also answer the text questions of the protocol.")]
Attributes = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,…", help="Only these text questions, by title or column. [default: all]", show_default=False
    ),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(metavar="N", help="Where a text is cut, up to 8192. [default: 512]", show_default=False),
]
Sequences = Annotated[
    str, typer.Option(metavar="N", help="Texts generated at the same time; auto asks the free memory of the device.")
]
Questions = Annotated[
    bool,
    typer.Option(
        "--questions",
        help="List the questions of every protocol and leave.",
        is_eager=True,
        callback=lambda asked: _list_questions() if asked else None,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
# As in DecodeOptions; a test keeps them equal, since importing it here would import numpy, Pillow and scipy.
MAX_BYTES, MAX_PIXELS = 512 * 1024 * 1024, 178_956_970


@app.callback(epilog=_example("artimuse demo"))
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    """Score image collections for aesthetics with the published ArtiMuse checkpoints."""
    if debug:
        os.environ["ARTIMUSE_DEBUG"] = "1"


@app.command(
    epilog=_example(
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
    actors: Annotated[
        int | None, typer.Option(metavar="N", help="Models at work at once. [default: one on each GPU]")
    ] = None,
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
    decode: Decode = "exact",
    allow_truncated: AllowTruncated = False,
    exif_rotate: ExifRotate = False,
    max_bytes: MaxBytes = MAX_BYTES,
    max_pixels: MaxPixels = MAX_PIXELS,
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Join this Ray cluster, such as auto. [default: start Ray here]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score every image of a manifest or folder. Run it again to go on where it stopped.

    With --texts each image also gets expert texts, in a second table; asked for later, they are added to the scores.
    """
    from artimuse_actor.images import DecodeOptions
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
        decode=DecodeOptions(decode, allow_truncated, exif_rotate, max_bytes, max_pixels),  # type: ignore[arg-type]
        protocol=protocol,
        device=device,
        dtype=dtype,
        batch_size=_count_or_auto("--batch-size", batch_size),
        unit_size=unit_size,
        actors=actors,
        keep_distribution=keep_distribution,
        texts=_wanted_texts(texts, attributes, max_new_tokens),
        sequences=_count_or_auto("--sequences", sequences),
        address=address,
    )
    result = run(settings, arguments)
    if as_json:
        print(json.dumps(score_json(result)))
    else:
        show_score(result, settings)


@app.command(
    epilog=_example("artimuse manifest test_datasets/AVA/test.json --images test_datasets/AVA/images --out ava.parquet")
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


@app.command(epilog=_example("artimuse status scored --json"))
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


@app.command(epilog=_example("artimuse image photo.jpg --checkpoint ArtiMuse --json"))
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
    as_json: AsJson = False,
) -> None:
    """Score one image or a few, here and now, without Ray.

    With --texts --json one image prints as the published code has it. The exit code is 1 if one could not be read.
    """
    from artimuse_actor.images import DecodeOptions
    from jobs.image import ImageSettings, score_files
    from jobs.screens import images_json, show_image

    settings = ImageSettings(
        checkpoint=checkpoint,
        protocol=protocol,
        device=device,
        dtype=dtype,
        batch_size=_count_or_auto("--batch-size", batch_size),
        texts=_wanted_texts(texts, attributes, max_new_tokens),
        sequences=_count_or_auto("--sequences", sequences),
        options=DecodeOptions(decode, allow_truncated, exif_rotate, max_bytes, max_pixels),  # type: ignore[arg-type]
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


@app.command(epilog=_example("artimuse demo --out artimuse-demo"))
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make.")] = Path("artimuse-demo"),
) -> None:
    """Make a small photo library, score it, compare with the truth.

    Takes about a minute on a laptop; needs no GPU and downloads nothing.
    """
    from jobs.demo.run import run_demo

    run_demo(out)


def _count_or_auto(option: str, text: str) -> Any:
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{option} takes a whole number from 1 or auto, not {text!r}.")
    return int(text)


def _wanted_texts(texts: bool, attributes: str | None, max_new_tokens: int | None) -> Any:
    from jobs.wanted_texts import WantedTexts

    if not texts:
        if attributes is not None or max_new_tokens is not None:
            option = "--attributes" if attributes is not None else "--max-new-tokens"
            raise UsageError(f"{option} is about texts. Add --texts.")
        return None
    names = None if attributes is None else [name.strip() for name in attributes.split(",") if name.strip()]
    return WantedTexts(names, max_new_tokens)


def _list_questions() -> NoReturn:
    from jobs.screens import show_questions

    show_questions()
    raise typer.Exit()


def _fail(error: ArtiMuseError) -> int:
    if os.environ.get("ARTIMUSE_DEBUG"):
        raise error
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return error.exit_code


def main() -> NoReturn:
    """The entry point: 0 done, 1 the run stopped, 2 wrong usage, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        code = app(standalone_mode=False)
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
    if code == INTERRUPTED:  # typer may have caught it first
        print("Interrupted. What was committed stays; run the same command again to go on.", file=sys.stderr)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    # pyarrow's threads may let go of a file when Python has begun to end, which aborts the process: now and then a
    # run that had done everything ended with code 134. There is nothing left to clean up.
    os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
