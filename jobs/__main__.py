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

from artimuse_actor.errors import ArtiMuseError
from jobs.curate_command import curate
from jobs.evaluate_commands import benchmark, evaluate
from jobs.image_command import image
from jobs.options import AsJson, IdColumn, Images, Limit, Source, UriColumn, example
from jobs.plan_command import plan
from jobs.report_command import report
from jobs.score_command import score, with_all_errors

# Heavy modules are imported where they are used: `artimuse --help` answers in a fraction of a second.


# typer carries a click of its own; this is the public way to the base of its errors.
_ClickException: Any = typer.BadParameter.__mro__[2]


INTERRUPTED, TERMINATED = 130, 143

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


app.command(
    epilog=example(
        "artimuse score photos --checkpoint ArtiMuse --out scored",
        "artimuse score s3://photos/manifest --checkpoint ArtiMuse_AVA --out s3://photos/scores",
        "artimuse score photos --out scored --texts --attributes 'Composition & Design,Technical Execution'",
    )
)(score)
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
    from jobs.manifest import open_manifest, write_manifest
    from jobs.manifest_batch import ManifestOptions

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


app.command(epilog=example("artimuse image photo.jpg --checkpoint ArtiMuse --json"))(image)


@app.command(epilog=example("artimuse demo --out artimuse-demo"))
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make.")] = Path("artimuse-demo"),
) -> None:
    """Make a small photo library, score it, compare with the truth.

    Takes about a minute on a laptop; needs no GPU and downloads nothing.
    """
    from jobs.demo.run import run_demo

    run_demo(out)


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
        code = app(with_all_errors(sys.argv[1:]), standalone_mode=False)
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
