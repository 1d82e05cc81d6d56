"""Results printed in the format asked for: for people, as Markdown, LaTeX or CSV, or as JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Literal

import pyarrow as pa
from pyarrow import csv as arrow_csv

from artimuse_actor.errors import UsageError
from jobs.evaluate.evaluation import Evaluation, SideBySide
from jobs.evaluate.evaluation_json import evaluations_json
from jobs.evaluate.layout import Block, as_latex, as_markdown, on_screen
from jobs.evaluate.metrics.estimate import Difference
from jobs.evaluate.run_benchmarks import BenchmarkResults
from jobs.evaluate.summary import (
    difference_blocks,
    distinct_labels,
    paper_table,
    side_by_side_blocks,
    summary_blocks,
)
from jobs.evaluate.text import evaluation_blocks, interval_method, published_line, truth_identity
from jobs.words import json_value, show
from schemas.metrics import METRICS

Format = Literal["screen", "markdown", "latex", "csv", "json"]


def choose_format(*, markdown: bool, latex: bool, csv: bool, json: bool) -> Format:
    """The one format that is asked for.

    Raises:
        UsageError: there are two.
    """
    asked: list[Format] = []
    for name, is_asked in (("markdown", markdown), ("latex", latex), ("csv", csv), ("json", json)):
        if is_asked:
            asked.append(name)  # type: ignore[arg-type]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(f'--{name}' for name in asked)}: choose one of them.")
    return asked[0] if asked else "screen"


def show_side_by_side(found: SideBySide, form: Format) -> None:
    """Print one evaluation, or several of one data set with their differences."""
    labels = distinct_labels(found.evaluations)
    summary = side_by_side_blocks(found, labels) if len(found.evaluations) > 1 else []
    show_evaluations(found.evaluations, labels, summary, found.differences, form)


def show_benchmarks(found: BenchmarkResults, form: Format) -> None:
    """Print the matrix of a benchmark: its evaluations, averages and differences, and the cells that are not there."""
    compared = {
        f"{found.evaluations[a].data_set}: {found.labels[a]} − {found.labels[b]}": difference
        for (a, b), difference in found.differences.items()
    }
    summary: list[Block] = []
    if len(found.evaluations) > 1:
        summary = summary_blocks(found.evaluations, found.labels)
    if len(compared) > 1:
        summary += ["", *difference_blocks(compared)]
    missing = [f"  {name} is absent: {where}" for name, where in found.absent.items()]
    missing += [f"  {cell} failed: {why}" for cell, why in found.failed.items()]
    if form == "json":
        broken = {**found.absent, **found.failed}
        cells = evaluations_json(found.evaluations, found.differences)
        print(json.dumps([*cells, *({"cell": name, "error": why} for name, why in broken.items())]))
        return
    labels = distinct_labels(found.evaluations)
    show_evaluations(found.evaluations, labels, [*summary, *missing], found.differences, form)


def show_evaluations(
    evaluations: Sequence[Evaluation],
    labels: Sequence[str],
    summary: Sequence[Block],
    differences: Mapping[tuple[int, int], Difference],
    form: Format,
) -> None:
    """Print evaluations.

    Args:
        evaluations: any.
        labels: of the scores of each.
        summary: what stands below them, for people.
        differences: numbers of two of them → the first's metrics minus the second's, for scripts.
        form: the format.
    """
    if form == "json":
        print(json.dumps(json_value(evaluations_json(evaluations, differences))))
    elif form == "csv":
        tables = [METRICS.empty_table(), *(evaluation.to_table() for evaluation in evaluations)]
        show(csv_text(pa.concat_tables(tables)))
    elif form == "latex":
        said = [f"{interval_method(evaluation.agreement)}." for evaluation in evaluations]
        said += [f"{one.data_set}: {truth_identity(one)}." for one in evaluations]
        said += [published_line(one) for one in evaluations if one.published]
        show(as_latex(paper_table(evaluations, labels), " ".join(dict.fromkeys(said))))
    elif form == "markdown":
        blocks: list[Block] = [paper_table(evaluations, labels)]
        for evaluation in evaluations:
            blocks += evaluation_blocks(evaluation)
        show(as_markdown([*blocks, *summary]))
    else:
        lines: list[Block] = []
        for evaluation in evaluations:
            lines += [*([""] if lines else []), *evaluation_blocks(evaluation)]
        show(on_screen([*lines, *(["", *summary] if summary else [])]))


def csv_text(table: pa.Table) -> str:
    """A table as CSV, without a line break at its end."""
    sink = pa.BufferOutputStream()
    arrow_csv.write_csv(table, sink)
    return bytes(sink.getvalue()).decode().rstrip("\n")
