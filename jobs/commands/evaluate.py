"""The commands `artimuse evaluate` and `artimuse benchmark`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from artimuse_actor.errors import GateFailed, UsageError
from jobs.commands.options import (
    Actors,
    ActorsPerGpu,
    AllowTruncated,
    AsJson,
    AsMarkdown,
    BatchSize,
    Device,
    Dtype,
    Gates,
    GroundTruth,
    Match,
    On,
    Quantize,
    Question,
    RequireComplete,
    Resamples,
    Seed,
    Threshold,
    TruthColumn,
    count_or_auto,
)
from jobs.words import show

if TYPE_CHECKING:
    from jobs.evaluate.evaluation import Evaluation
    from jobs.evaluate.gate import Gate


def evaluate(
    out: Annotated[str, typer.Argument(metavar="OUT", help="The --out of a run.", show_default=False)],
    ground_truth: GroundTruth = None,
    on: On = None,
    truth_column: TruthColumn = "gt_score",
    match: Match = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Also split the result by this column of it.", show_default=False),
    ] = None,
    question: Question = None,
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
        typer.Option(metavar="OUT2", help="Another store, on the same ground truth.", show_default=False),
    ] = None,
    threshold: Threshold = None,
    require_complete: RequireComplete = False,
    gate: Gates = None,
    seed: Seed = 0,
    resamples: Resamples = 1000,
    results: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Also write the scores as the published scripts do, in JSON.", show_default=False
        ),
    ] = None,
    plots: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Also draw them, as .svg, .png or .pdf.", show_default=False),
    ] = None,
    markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Compare a store's scores with ground truth: SRCC, PLCC, KRCC and more, each with its 95% interval.

    Every row is accounted for, and a shrunken N is said. The metrics go to OUT/metrics, too. Exit code 1 if a --gate
    is missed.
    """
    from jobs.evaluate.evaluate import EvaluateOptions, evaluate_store
    from jobs.evaluate.gate import Gate
    from jobs.evaluate.ground_truth import TruthColumns
    from jobs.evaluate.plots import check_plots_name, write_plots
    from jobs.evaluate.published_results import write_results

    _refuse_two_formats(markdown, as_json)
    gates = [Gate.parse(text) for text in gate or ()]
    if plots:
        check_plots_name(plots)
    options = EvaluateOptions(
        columns=TruthColumns(on, truth_column, by),
        match=match,
        question=question,
        benchmark=benchmark,
        threshold=threshold,
        seed=seed,
        resamples=resamples,
    )
    evaluation = evaluate_store(out, ground_truth, options, against)
    _show([evaluation], markdown=markdown, as_json=as_json)
    quiet = markdown or as_json
    if results:
        rows = write_results(evaluation, results)
        _say(f"{results}: {rows:,} scores.", quiet)
    if plots:
        write_plots(evaluation, plots)
        _say(f"{plots}: drawn.", quiet)
    _say(f"{out}/metrics: written.", quiet)
    _check([evaluation], gates, require_complete)


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
    require_complete: RequireComplete = False,
    gate: Gates = None,
    seed: Seed = 0,
    resamples: Resamples = 1000,
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Join this Ray cluster, such as auto. [default: this machine alone]"),
    ] = None,
    markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Run published benchmarks from images to the table of the paper: score, evaluate, compare.

    Several data sets and checkpoints give one matrix. Run it again to go on.
    """
    from jobs.evaluate.evaluate import EvaluateOptions
    from jobs.evaluate.gate import Gate
    from jobs.evaluate.run_benchmarks import BenchmarkSettings, run_benchmarks
    from jobs.score.actor_pool import ActorPool

    _refuse_two_formats(markdown, as_json)
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
        evaluate=EvaluateOptions(seed=seed, resamples=resamples),
    )
    evaluations = run_benchmarks(settings)
    _show(evaluations, markdown=markdown, as_json=as_json)
    _check(evaluations, gates, require_complete)


def _refuse_two_formats(markdown: bool, as_json: bool) -> None:
    if markdown and as_json:
        raise UsageError("--markdown and --json: choose one of them.")


def _show(evaluations: list[Evaluation], *, markdown: bool, as_json: bool) -> None:
    from jobs.evaluate import text

    if as_json:
        shown = [text.evaluation_json(evaluation) for evaluation in evaluations]
        print(json.dumps(shown[0] if len(shown) == 1 else shown))
    elif markdown:
        show(text.markdown(evaluations))
    else:
        for number, evaluation in enumerate(evaluations):
            print("\n" * bool(number), end="")
            text.show_evaluation(evaluation)
        if len(evaluations) > 1:
            show("\n" + "\n".join(text.matrix(evaluations)))


def _check(evaluations: list[Evaluation], gates: list[Gate], require_complete: bool) -> None:
    from jobs.evaluate.text import headline

    for evaluation in evaluations:
        if require_complete and not evaluation.counts.is_complete:
            raise GateFailed(f"{evaluation.data_set}: --require-complete is missed: {headline(evaluation.counts)}.")
        for gate in gates:
            gate.check(evaluation)


def _say(line: str, quiet: bool) -> None:
    if not quiet:
        show(line)
