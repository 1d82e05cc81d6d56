"""`artimuse benchmark`: published data sets, from images to metrics, for several checkpoints in one call."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from artimuse_actor.checkpoint.names import CheckpointIdentity, identify_checkpoint
from artimuse_actor.errors import ArtiMuseError, UsageError
from artimuse_actor.images.options import DecodeOptions
from jobs.evaluate.benchmark_folders import BenchmarkFolder, check_folder, find_folder, unnamed_images
from jobs.evaluate.benchmarks import BENCHMARKS, get_benchmark
from jobs.evaluate.checkpoint_labels import label_checkpoints
from jobs.evaluate.data_set import DataSet
from jobs.evaluate.evaluate import compare, write_metrics
from jobs.evaluate.evaluation import Evaluation
from jobs.evaluate.ground_truth import read_ground_truth
from jobs.evaluate.metrics.estimate import Difference
from jobs.evaluate.metrics.holm import holm_corrected
from jobs.evaluate.options import EvaluateOptions
from jobs.evaluate.published_results import write_results
from jobs.evaluate.scores import open_scores
from jobs.manifest.manifest import ManifestOptions
from jobs.score.actor_pool import ActorPool
from jobs.words import show

if TYPE_CHECKING:
    from artimuse_actor.loaded_model import BatchSize
    from jobs.score.run import Machines


@dataclass(frozen=True)
class BenchmarkSettings:
    """Arguments of the `benchmark` command.

    Attributes:
        names: of benchmarks, or `all` that are there.
        root: where the data sets lie.
        out: where the stores go: one for each checkpoint and data set.
        checkpoints: folders or names.
        protocol: of all of them, or None to guess it from each one's name.
        device: as of `score`.
        dtype: as of `score`.
        quantize: as of `score`.
        actors: as of `score`.
        actors_per_gpu: as of `score`.
        batch_size: as of `score`.
        allow_truncated: score truncated files, as the published evaluation of data sets does.
        address: of a Ray cluster, or None to work on this machine alone.
        limit: only so many rows of each data set, or None for all.
        against: the checkpoint that the others are compared with, one of `checkpoints`; None for none.
        results: folder of result files as the published scripts write them, or None.
        evaluate: how scores are compared with ground truth.
    """

    names: tuple[str, ...]
    root: str
    out: str
    checkpoints: tuple[str, ...]
    protocol: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    quantize: str | None = None
    actors: ActorPool | None = None
    actors_per_gpu: int = 1
    batch_size: BatchSize = "auto"
    allow_truncated: bool = False
    address: str | None = None
    limit: int | None = None
    against: str | None = None
    results: str | None = None
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)


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
            try:
                _score(settings, cell, shared)
            except ArtiMuseError as error:
                failed[str(cell)] = str(error)
                show(f"{cell}: {error}", file=sys.stderr)
    found: dict[tuple[str, str], Evaluation] = {}
    for folder in folders:
        for cell in cells:
            if cell.folder is folder and str(cell) not in failed:
                try:
                    base = _base(settings, cells, cell, failed)
                    found[folder.benchmark.name, cell.label] = _evaluate(settings, cell, base)
                except ArtiMuseError as error:
                    failed[str(cell)] = str(error)
                    show(f"{cell}: {error}", file=sys.stderr)
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
    identities: dict[str, CheckpointIdentity] = {}
    for checkpoint in settings.checkpoints:
        try:
            identities[checkpoint] = identify_checkpoint(checkpoint, fetch=settings.address is None)
        except ArtiMuseError as error:
            problems.append(str(error))
    if settings.against is not None and settings.against not in settings.checkpoints:
        problems.append(
            f"--against takes one of the checkpoints ({', '.join(settings.checkpoints)}), not {settings.against!r}."
        )
    if settings.limit is not None and settings.limit < 1:
        problems.append(f"--limit takes a whole number from 1, not {settings.limit}.")
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
    from jobs.score.settings import ScoreSettings
    from jobs.score.text import show_score

    scoring = ScoreSettings(
        source=cell.folder.truth,
        checkpoint=cell.checkpoint,
        out=cell.out,
        manifest=ManifestOptions(images=cell.folder.images, limit=settings.limit),
        decode=DecodeOptions(allow_truncated=settings.allow_truncated),
        protocol=settings.protocol,
        device=settings.device,
        dtype=settings.dtype,
        quantize=settings.quantize,
        batch_size=settings.batch_size,
        actors=settings.actors,
        actors_per_gpu=settings.actors_per_gpu,
        address=settings.address,
    )
    arguments: dict[str, Any] = {
        "command": "benchmark",
        "source": cell.folder.truth,
        "images": cell.folder.images,
        "limit": settings.limit,
        "out": scoring.out,
        "checkpoint": cell.checkpoint,
        "protocol": settings.protocol,
        "device": settings.device,
        "dtype": settings.dtype,
        "quantize": settings.quantize,
        "allow_truncated": settings.allow_truncated,
    }
    result = score(scoring, arguments, shared)
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
