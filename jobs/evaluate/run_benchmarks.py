"""`artimuse benchmark`: published data sets, from images to metrics, for several checkpoints in one call."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from artimuse_actor.errors import ArtiMuseError
from jobs.evaluate.benchmark_folders import BenchmarkFolder, check_folder, find_folder, unnamed_images
from jobs.evaluate.benchmark_settings import BenchmarkSettings
from jobs.evaluate.benchmarks import BENCHMARKS, get_benchmark
from jobs.evaluate.cells import Cell, cells_of, noted, work_off
from jobs.evaluate.data_set import DataSet
from jobs.evaluate.evaluate import compare, write_metrics
from jobs.evaluate.evaluation import Evaluation
from jobs.evaluate.ground_truth import read_ground_truth
from jobs.evaluate.metrics.estimate import Difference
from jobs.evaluate.metrics.holm import holm_corrected
from jobs.evaluate.published_results import write_results
from jobs.evaluate.scores import open_scores

if TYPE_CHECKING:
    from jobs.score.run import Machines

BenchmarkCell = Cell[BenchmarkFolder]


@dataclass(frozen=True)
class BenchmarkResults:
    """The matrix of results.

    Attributes:
        evaluations: of the cells that have one, data set after data set.
        labels: of the checkpoint of each.
        differences: numbers of two evaluations → that of the first checkpoint to the one they are compared with.
        absent: data sets that `all` did not find, each with the places that were looked at.
        failed: cells that failed, each with the reason.
    """

    evaluations: list[Evaluation]
    labels: list[str]
    differences: Mapping[tuple[int, int], Difference]
    absent: Mapping[str, str]
    failed: Mapping[str, str]


def run_benchmarks(settings: BenchmarkSettings) -> BenchmarkResults:
    """Score each data set with each checkpoint, a checkpoint after the other, and evaluate them.

    Everything is checked before anything starts. A checkpoint is loaded once for the data sets that are scored in this
    process; Ray, where it is needed, starts once. A cell that fails leaves the others.

    Raises:
        UsageError: something is wrong with an argument; the message names all that is.
    """
    folders, cells, absent = _check(settings)
    failed: dict[str, str] = {}
    work_off(cells, settings.address, failed, partial(_score, settings))
    found: dict[tuple[str, str], Evaluation] = {}
    for folder in folders:
        for cell in cells:
            if cell.folder is folder and str(cell) not in failed:
                with noted(cell, failed):
                    base = cell.base(cells, settings.against)
                    compared = base if str(base) not in failed else None
                    found[folder.name, cell.label] = _evaluate(settings, cell, compared)
    names = list(found)
    differences = {
        (number, names.index((names[number][0], label))): evaluation.against.difference
        for number, evaluation in enumerate(found.values())
        if evaluation.against and (label := _label_of(cells, evaluation.against.out))
    }
    labels = [label for _, label in names]
    return BenchmarkResults(list(found.values()), labels, holm_corrected(differences), absent, failed)


def _check(settings: BenchmarkSettings) -> tuple[list[BenchmarkFolder], list[BenchmarkCell], dict[str, str]]:
    """Look at every argument: the data sets, all cells in the order of work, and what `all` did not find."""
    problems: list[str] = []
    absent: dict[str, str] = {}
    folders: list[BenchmarkFolder] = []
    is_all = settings.names == ("all",)
    for name in dict.fromkeys(BENCHMARKS if is_all else settings.names):
        try:
            folder = find_folder(settings.root, get_benchmark(name))
            if isinstance(folder, BenchmarkFolder):
                check_folder(folder, settings.evaluate.columns)
                folders.append(folder)
            elif is_all:
                absent[name] = folder
            else:
                problems.append(folder)
        except ArtiMuseError as error:
            problems.append(str(error))
    if not folders and not problems:
        problems.append(f"There is no benchmark below {settings.root}. Name the folder above them with --root.")
    return folders, cells_of(settings, folders, problems), absent


def _score(settings: BenchmarkSettings, cell: BenchmarkCell, shared: Machines) -> None:
    from jobs.score.run import score
    from jobs.score.text import show_score

    scoring = settings.scoring(cell.folder.truth, cell.folder.images, cell.checkpoint, cell.out)
    result = score(scoring, settings.arguments(scoring), shared)
    with contextlib.redirect_stdout(sys.stderr):
        show_score(result, scoring)


def _evaluate(settings: BenchmarkSettings, cell: BenchmarkCell, base: BenchmarkCell | None) -> Evaluation:
    """The evaluation of a cell, beside that of the checkpoint that all are compared with, written into its store."""
    benchmark = cell.folder.benchmark
    options = replace(settings.evaluate, benchmark=benchmark.name, match="id")
    truth = cell.folder.truth
    data_set = DataSet(
        benchmark.name,
        truth,
        lambda: _first_rows(read_ground_truth(truth, options.columns), settings.limit),
        benchmark,
    )
    places = [cell.out, *([base.out] if base else [])]
    origins = [open_scores(place, options.question, benchmark) for place in places]
    evaluation = compare(origins, data_set, options).evaluations[0]
    # Of a part of the rows, images without ground truth say nothing.
    extra = 0 if settings.limit else evaluation.counts.extra + unnamed_images(cell.folder, options.columns)
    evaluation.counts.extra = extra
    write_metrics(evaluation)
    if settings.results:
        write_results(evaluation, f"{settings.results.rstrip('/')}/{benchmark.name}_{cell.label}.json")
    return evaluation


def _label_of(cells: Iterable[BenchmarkCell], out: str) -> str:
    return next(cell.label for cell in cells if cell.out == out)


def _first_rows(batches: Iterable[pa.Table], limit: int | None) -> Iterator[pa.Table]:
    left = limit
    for batch in batches:
        yield batch if left is None else batch.slice(0, left)
        if left is not None and (left := left - len(batch)) <= 0:
            return
