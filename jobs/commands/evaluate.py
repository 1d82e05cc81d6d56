"""The commands `artimuse evaluate` and `artimuse benchmark`."""

from __future__ import annotations

from typing import Annotated

import typer

from artimuse_actor.errors import UsageError
from jobs.commands.evaluation_options import (
    AsCsv,
    AsLatex,
    AsMarkdown,
    Cluster,
    Gates,
    GroundTruth,
    Match,
    On,
    Question,
    RequireComplete,
    Resamples,
    Results,
    ScoreThreshold,
    Seed,
    Threshold,
    TruthColumn,
)
from jobs.commands.options import (
    Actors,
    ActorsPerGpu,
    AllowTruncated,
    AsJson,
    BatchSize,
    Device,
    Dtype,
    Limit,
    Quantize,
    ReadMixed,
    count_or_auto,
)
from jobs.words import show


def evaluate(
    out: Annotated[
        list[str],
        typer.Argument(
            metavar="OUT…",
            help="The --out of a run, or a pattern of several whose rows count together; or a file (CSV, JSON, JSON "
            "lines, Parquet, Arrow) with a name and a number in each row, of any model. Several OUT are compared.",
            show_default=False,
        ),
    ],
    ground_truth: GroundTruth = None,
    on: On = None,
    truth_column: TruthColumn = "gt_score",
    match: Match = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Also split the result by this column of it.", show_default=False),
    ] = None,
    cluster: Cluster = None,
    question: Question = None,
    id_column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Of a file of scores, the column that names the image. [default: image_id, image, uri, …]",
            show_default=False,
        ),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Whose published values to compare with. [default: by the names of file and folder]",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="OUT2", help="Other scores, on the same ground truth.", show_default=False),
    ] = None,
    threshold: Threshold = None,
    score_threshold: ScoreThreshold = None,
    require_complete: RequireComplete = False,
    gate: Gates = None,
    seed: Seed = 0,
    resamples: Resamples = 1000,
    results: Results = None,
    plots: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Also draw them, as .svg, .png or .pdf.", show_default=False),
    ] = None,
    allow_mixed: ReadMixed = False,
    markdown: AsMarkdown = False,
    latex: AsLatex = False,
    csv: AsCsv = False,
    as_json: AsJson = False,
) -> None:
    """Compare scores with ground truth: SRCC, PLCC, KRCC and more, each with its 95% interval.

    Every row is accounted for, and a shrunken N is said. Of several sets of scores, each two are compared on the rows
    that all have. A store's metrics go to OUT/metrics, too. Exit code 1 if a --gate is missed.
    """
    from jobs.evaluate.evaluate import evaluate_all, write_metrics
    from jobs.evaluate.gate import Gate, check_gates
    from jobs.evaluate.options import EvaluateOptions
    from jobs.evaluate.output import choose_format, show_side_by_side
    from jobs.evaluate.plots import check_plots_name, write_plots
    from jobs.evaluate.published_results import write_results
    from jobs.evaluate.truth_columns import TruthColumns

    form = choose_format(markdown=markdown, latex=latex, csv=csv, json=as_json)
    if against and len(out) > 1:
        raise UsageError("--against is for one OUT. Name all that are to be compared as OUT.")
    for option, given in (("--results", results), ("--plots", plots)):
        if given and len(out) > 1:
            raise UsageError(f"{option} is for one OUT.")
    gates = [Gate.parse(text) for text in gate or ()]
    if plots:
        check_plots_name(plots)
    options = EvaluateOptions(
        columns=TruthColumns(on, truth_column, by, cluster),
        match=match,
        question=question,
        id_column=id_column,
        benchmark=benchmark,
        threshold=threshold,
        score_threshold=score_threshold,
        allow_mixed=allow_mixed,
        seed=seed,
        resamples=resamples,
    )
    found = evaluate_all([*out, *([against] if against else [])], ground_truth, options)
    shown = found.first() if against else found
    show_side_by_side(shown, form)
    quiet = form != "screen"
    evaluation = found.evaluations[0]
    if results:
        rows = write_results(evaluation, results)
        _say(f"{results}: {rows:,} scores.", quiet)
    if plots:
        write_plots(evaluation, plots)
        _say(f"{plots}: drawn.", quiet)
    for one in shown.evaluations:
        if write_metrics(one):
            _say(f"{one.scores}/metrics: written.", quiet)
    check_gates(shown.evaluations, gates, require_complete)


def benchmark(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME…",
            help="AVA, TAD66K, FLICKR-AES, PARA, ArtiMuse-10K, KonIQ-10K, SPAQ, KADID, PIPAL, ISTA-10K; or all.",
            show_default=False,
        ),
    ],
    root: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="Folder or s3:// prefix of test_datasets/NAME/images and test.json, or of "
            "benchmark/VR/DOMAIN/NAME/image and NAME.json.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(metavar="OUT", help="Folder or s3:// prefix; gets OUT/CHECKPOINT/NAME.", show_default=False),
    ],
    checkpoint: Annotated[
        list[str], typer.Option(metavar="CKPT", help="As for score; may be given again.", show_default=False)
    ],
    protocol: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="As for score. [default: guessed from the name]", show_default=False),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    actors: Actors = None,
    actors_per_gpu: ActorsPerGpu = 1,
    batch_size: BatchSize = "auto",
    allow_truncated: AllowTruncated = False,
    limit: Limit = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="CKPT", help="Compare the others with this one of the checkpoints.", show_default=False),
    ] = None,
    cluster: Cluster = None,
    threshold: Threshold = None,
    score_threshold: ScoreThreshold = None,
    results: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Also write DIR/NAME_CKPT.json as the published scripts do.", show_default=False
        ),
    ] = None,
    require_complete: RequireComplete = False,
    gate: Gates = None,
    seed: Seed = 0,
    resamples: Resamples = 1000,
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Join this Ray cluster, such as auto. [default: this machine alone]"),
    ] = None,
    markdown: AsMarkdown = False,
    latex: AsLatex = False,
    csv: AsCsv = False,
    as_json: AsJson = False,
) -> None:
    """Run published benchmarks from images to the table of the paper: score, evaluate, compare.

    Several data sets and checkpoints give one matrix, with averages by domain. All arguments are checked first; a cell
    that fails leaves the others, and the exit code says so. Run it again to go on.
    """
    from jobs.evaluate.gate import Gate, check_gates
    from jobs.evaluate.options import EvaluateOptions
    from jobs.evaluate.output import choose_format, show_benchmarks
    from jobs.evaluate.run_benchmarks import BenchmarkSettings, run_benchmarks
    from jobs.evaluate.truth_columns import TruthColumns
    from jobs.score.actor_pool import ActorPool

    form = choose_format(markdown=markdown, latex=latex, csv=csv, json=as_json)
    gates = [Gate.parse(text) for text in gate or ()]
    settings = BenchmarkSettings(
        names=tuple(names),
        root=root,
        out=out,
        checkpoints=tuple(checkpoint),
        protocol=protocol,
        device=device,
        dtype=dtype,
        quantize=quantize,
        actors=ActorPool.parse(actors) if actors else None,
        actors_per_gpu=actors_per_gpu,
        batch_size=count_or_auto("--batch-size", batch_size),
        allow_truncated=allow_truncated,
        address=address,
        limit=limit,
        against=against,
        results=results,
        evaluate=EvaluateOptions(
            columns=TruthColumns(cluster=cluster),
            threshold=threshold,
            score_threshold=score_threshold,
            seed=seed,
            resamples=resamples,
        ),
    )
    found = run_benchmarks(settings)
    show_benchmarks(found, form)
    misses = [f"{name} is absent: {where}" for name, where in found.absent.items()] if require_complete else []
    failed = [f"{cell}: {why}" for cell, why in found.failed.items()]
    check_gates(found.evaluations, gates, require_complete, [*failed, *misses])


def _say(line: str, quiet: bool) -> None:
    if not quiet:
        show(line)
