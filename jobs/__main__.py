"""The `artimuse` command: arguments in, exit code out."""

from __future__ import annotations

import atexit
import errno
import gc
import io
import os
import sys
from typing import Annotated, Any

import typer

from artimuse_actor.errors import ArtiMuseError, UsageError, reason_of
from jobs.commands.benchmark import benchmark
from jobs.commands.browse import browse
from jobs.commands.config import config as show_config
from jobs.commands.config_file import Configuration, load
from jobs.commands.curate import curate
from jobs.commands.demo import demo
from jobs.commands.evaluate import evaluate
from jobs.commands.export import export
from jobs.commands.image import image
from jobs.commands.manifest import manifest
from jobs.commands.options import example
from jobs.commands.plan import plan
from jobs.commands.query import query
from jobs.commands.report import report
from jobs.commands.score import score
from jobs.commands.serve import serve
from jobs.commands.store import compact, merge, status
from jobs.commands.verify import verify
from jobs.words import show

# Heavy modules are imported where they are used: `artimuse --help` answers in a fraction of a second.


INTERRUPTED, TERMINATED = 130, 143


class Commands(typer.core.TyperGroup):
    """The commands, whose errors name the configuration file where they come from it."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except UsageError as error:
            if isinstance(ctx.obj, Configuration) and (command := self.commands.get(ctx.invoked_subcommand)):
                raise ctx.obj.explained(error, ctx.invoked_subcommand, command.params) from error
            raise


app = typer.Typer(
    name="artimuse",
    cls=Commands,
    help="Score image collections for aesthetics with the published ArtiMuse checkpoints.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.callback(epilog=example("artimuse demo"))
def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A TOML file with options of the commands, see `artimuse config`. [default: artimuse.toml, if there "
            "is one]",
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="Use this profile of that file.", show_default=False)
    ] = None,
) -> None:
    """Score image collections for aesthetics with the published ArtiMuse checkpoints."""
    if debug:
        os.environ["ARTIMUSE_DEBUG"] = "1"
    group: Any = context.command
    context.obj = load(config, profile, group.commands)
    context.default_map = context.obj.default_map()


app.command(
    epilog=example(
        "artimuse score photos --checkpoint ArtiMuse --out scored",
        "artimuse score s3://photos/manifest --checkpoint ArtiMuse_AVA --out s3://photos/scores",
        "artimuse score gs://photos/raw --out gs://photos/scores",
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


app.command(
    epilog=example("artimuse manifest test_datasets/AVA/test.json --images test_datasets/AVA/images --out ava.parquet")
)(manifest)
app.command(epilog=example("artimuse status scored --json"))(status)
app.command(
    epilog=example(
        "artimuse evaluate ava --ground-truth test_datasets/AVA/test.json",
        "artimuse evaluate scored --ground-truth ratings.csv --on file_name --truth-column mos --by category",
        'artimuse evaluate ava --gate "srcc>=0.80" --require-complete --plots ava.svg',
        "artimuse evaluate ava nima.csv musiq.json --ground-truth test_datasets/AVA/test.json",
    )
)(evaluate)
app.command(
    epilog=example(
        "artimuse benchmark AVA --root test_datasets --checkpoint ArtiMuse_AVA --out benchmarks",
        "artimuse benchmark all --root . --checkpoint ArtiMuse --checkpoint UniPercept --out benchmarks --markdown",
        "artimuse benchmark AVA --root . --checkpoint a/ckpt --checkpoint b/ckpt --against a/ckpt --out benchmarks",
        "artimuse benchmark vqa --root . --checkpoint UniPercept --out benchmarks --by category",
    )
)(benchmark)
app.command(
    epilog=example(
        "artimuse report scored --out report.html",
        "artimuse report scored --ground-truth ratings.csv --on file_name --truth-column mos --by category",
        "artimuse report 'runs/*' --out all.html",
        "artimuse report s3://photos/scored --thumbnails 1000 --root s3://photos/raw",
    )
)(report)
app.command(
    epilog=example(
        "artimuse browse scored",
        "artimuse browse s3://photos/scores --marks best.parquet --root s3://photos/raw",
        "artimuse browse scored --port 8765 --no-open",
    )
)(browse)


app.command(
    epilog=example(
        "artimuse curate scored --top 10% --dedupe near --min-side 1024 --max-std 12 --out best.parquet",
        "artimuse curate scored --best-of burst --within 5s --top 500 --out album.parquet",
        "artimuse curate scored --manifest photos.parquet --top 5000 --per category --out best.parquet",
        "artimuse curate scored uni=scored-by-unipercept --where 'score > 60 AND uni_iqa > 50' --out both.parquet",
        "artimuse curate scored --where \"width > height AND NOT starts_with(uri, 's3://old/')\" --out wide.jsonl",
        "artimuse curate scored --min-score 70 --as webdataset --out s3://photos/best",
    )
)(curate)


app.command(
    epilog=example(
        'artimuse query scored "SELECT format, count(*), avg(score) FROM scores GROUP BY format"',
        'artimuse query scored "SELECT error_type, count(*) FROM scores GROUP BY ALL" --json',
        'artimuse query scored "SELECT image_id, overall_gestalt FROM texts" --csv texts.csv',
    )
)(query)
app.command(
    epilog=example(
        "artimuse export scored --as hf --out on-the-hub",
        "artimuse export scored --as xmp --stars 30,45,60,75,90 --dry-run",
        "artimuse export s3://laion/scores --as sidecar",
        "artimuse export 'runs/*' --as sql --out scores.duckdb",
    )
)(export)
app.command(epilog=example("artimuse compact scored --out scored-2026"))(compact)
app.command(
    epilog=example("artimuse merge runs/out-1 runs/out-2 --into scored", "artimuse merge 'runs/*' --into scored")
)(merge)
app.command(epilog=example("artimuse image photo.jpg --checkpoint ArtiMuse --json"))(image)
app.command(
    epilog=example(
        "artimuse serve --checkpoint UniPercept",
        "artimuse serve --checkpoint ArtiMuse --texts --host 0.0.0.0 --port 8080 --token-file token",
    )
)(serve)
app.command(epilog=example("artimuse verify", "artimuse verify --checkpoint ArtiMuse --device cuda --json"))(verify)
app.command("config", epilog=example("artimuse config", "artimuse config score"))(show_config)
app.command(epilog=example("artimuse demo --out artimuse-demo"))(demo)


def _fail(error: ArtiMuseError) -> int:
    if os.environ.get("ARTIMUSE_DEBUG"):
        raise error
    show(f"{type(error).__name__}: {error}", file=sys.stderr)
    return error.exit_code


def _end_without_collecting() -> None:
    """Keep Python from looking through all objects for garbage before it ends: 0.2 s, with torch 0.5 s and more."""
    if "duckdb" not in sys.modules:  # its library calls what is left then leaked, on standard error
        gc.freeze()


_FULL = (
    "A disk is full: that of what it prints, or of temporary files. What was committed stays; make room, and run again."
)


def main() -> int:
    """Run the command and return its exit code: 0 done, 1 stopped, 2 wrong usage, 130 interrupted, 143 terminated.

    `score` returns 3 if it ended, but too many images could not be read.
    """
    from jobs.score.signals import was_terminated

    atexit.register(_end_without_collecting)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - to the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        code = app(standalone_mode=False)
    except ArtiMuseError as error:
        code = _fail(error)
    except typer.TyperException as error:
        show_usage: Any = getattr(error, "show", None)  # only usage errors have it
        show_usage() if show_usage else show(f"Error: {error.format_message()}", file=sys.stderr)
        code = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except BrokenPipeError:
        code = 1
    except Exception as error:
        if os.environ.get("ARTIMUSE_DEBUG"):
            raise
        if isinstance(error, ModuleNotFoundError):
            missing = f"{sys.executable} has no module {error.name}."
            show(f"{missing} Install artimuse-batch there again: pip brings what it needs.", file=sys.stderr)
            return 1
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            show(_FULL, file=sys.stderr)
        else:
            show(f"{reason_of(error)}. This was not foreseen; `artimuse --debug …` shows where.", file=sys.stderr)
        code = 1
    if code == INTERRUPTED:  # also if typer caught it first: it makes no difference between kinds of KeyboardInterrupt
        code = TERMINATED if was_terminated() else INTERRUPTED
        show("Interrupted. What was committed stays; run the same command again to go on.", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # else Python tries again, and says so
            if not isinstance(error, BrokenPipeError):
                code = code or 1
                show(_FULL, file=sys.stderr)
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
