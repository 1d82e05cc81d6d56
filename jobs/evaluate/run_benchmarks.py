"""`artimuse benchmark`: published data sets, from images to metrics, for several checkpoints in one call."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from artimuse_actor.errors import ArtiMuseError, UsageError
from jobs.evaluate.benchmark_folders import BenchmarkFolder, check_folder, find_folder, unnamed_images
from jobs.evaluate.benchmark_settings import BenchmarkSettings, noted
from jobs.evaluate.benchmarks import BENCHMARKS, get_benchmark
from jobs.evaluate.checkpoint_labels import label_checkpoints
from jobs.evaluate.data_set import DataSet
from jobs.evaluate.evaluate import compare, write_metrics
from jobs.evaluate.evaluation import Evaluation
from jobs.evaluate.ground_truth import read_ground_truth
from jobs.evaluate.metrics.estimate import Difference
from jobs.evaluate.metrics.holm import holm_corrected
from jobs.evaluate.published_results import write_results
from jobs.evaluate.scores import open_scores
from jobs.words import show

if TYPE_CHECKING:
    from jobs.score.run import Machines


@dataclass(frozen=True)
class Cell:
    """One checkpoint on one data set.

    Attributes:
        folder: the data set.
        checkpoint: as the user gave it.
        label: the checkpoint's name in tables and folders, told apart from the others.
        out: the store.
    """

    folder: BenchmarkFolder
    checkpoint: str
    label: str
    out: str

    def __str__(self) -> str:
        return f"{self.folder.benchmark.name} with {self.label}"


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
    from jobs.score.run import machines

    failed: dict[str, str] = {}
    with machines(settings.address) as shared:
        for cell in cells:
            show(str(cell), file=sys.stderr)
            with noted(str(cell), failed):
                _score(settings, cell, shared)
    found: dict[tuple[str, str], Evaluation] = {}
    for folder in folders:
        for cell in cells:
            if cell.folder is folder and str(cell) not in failed:
                with noted(str(cell), failed):
                    base = _base(settings, cells, cell, failed)
                    found[folder.benchmark.name, cell.label] = _evaluate(settings, cell, base)
    names = list(found)
    compared = {
        (number, names.index((names[number][0], label))): evaluation.against.difference
        for number, evaluation in enumerate(found.values())
        if evaluation.against and (label := _label_of(cells, evaluation.against.out))
    }
    labels = [label for _, label in names]
    return BenchmarkResults(list(found.values()), labels, holm_corrected(compared), absent, failed)


def _check(settings: BenchmarkSettings) -> tuple[list[BenchmarkFolder], list[Cell], dict[str, str]]:
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
    identities = settings.identify(problems)
    if problems:
        raise UsageError("\n".join(dict.fromkeys(problems)))
    labels = label_checkpoints(identities)
    out = settings.out.rstrip("/")
    cells = [
        Cell(folder, checkpoint, labels[checkpoint], f"{out}/{labels[checkpoint]}/{folder.benchmark.name}")
        for checkpoint in identities
        for folder in folders
    ]
    return folders, cells, absent


def _score(settings: BenchmarkSettings, cell: Cell, shared: Machines) -> None:
    from jobs.score.run import score
    from jobs.score.text import show_score

    scoring = settings.scoring(cell.folder.truth, cell.folder.images, cell.checkpoint, cell.out)
    result = score(scoring, settings.arguments(scoring), shared)
    with contextlib.redirect_stdout(sys.stderr):
        show_score(result, scoring)


def _evaluate(settings: BenchmarkSettings, cell: Cell, base: Cell | None) -> Evaluation:
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


def _base(settings: BenchmarkSettings, cells: Iterable[Cell], cell: Cell, failed: Mapping[str, str]) -> Cell | None:
    """The cell of the same data set that a cell is compared with, if there is one that has scores."""
    for other in cells:
        if other.checkpoint == settings.against and other.folder is cell.folder and other is not cell:
            return None if str(other) in failed else other
    return None


def _label_of(cells: Iterable[Cell], out: str) -> str:
    return next(cell.label for cell in cells if cell.out == out)


def _first_rows(batches: Iterable[pa.Table], limit: int | None) -> Iterator[pa.Table]:
    left = limit
    for batch in batches:
        yield batch if left is None else batch.slice(0, left)
        if left is not None and (left := left - len(batch)) <= 0:
            return
