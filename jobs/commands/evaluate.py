"""The command `artimuse evaluate`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from artimuse_actor.errors import StoreError, UsageError
from jobs.commands.evaluation_options import (
    AsCsv,
    AsLatex,
    AsMarkdown,
    By,
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
from jobs.commands.options import AsJson, ReadMixed
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
    by: By = None,
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
    from jobs.evaluate.gate import CheckedScores, Gate, check_gates
    from jobs.evaluate.options import EvaluateOptions
    from jobs.evaluate.output import choose_format, show_side_by_side
    from jobs.evaluate.plots import check_plots, write_plots
    from jobs.evaluate.published_results import check_results, write_results
    from jobs.evaluate.truth_columns import TruthColumns

    form = choose_format(markdown=markdown, latex=latex, csv=csv, json=as_json)
    if against and len(out) > 1:
        raise UsageError("--against is for one OUT. Name all that are to be compared as OUT.")
    for option, given in (("--results", results), ("--plots", plots)):
        if given and len(out) > 1:
            raise UsageError(f"{option} is for one OUT.")
    gates = [Gate.parse(text) for text in gate or ()]
    if plots:
        check_plots(plots)
    if results:
        check_results(results)
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
        try:
            if write_metrics(one):
                _say(f"{one.scores}/metrics: written.", quiet)
        except StoreError as error:  # such as a store that can only be read: its scores are measured all the same
            show(f"The store has no note of these metrics. {error}", file=sys.stderr)
    check_gates([CheckedScores(one) for one in shown.evaluations], gates, require_complete)


def _say(line: str, quiet: bool) -> None:
    if not quiet:
        show(line)
