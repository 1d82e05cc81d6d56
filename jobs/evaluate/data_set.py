"""The data set of an evaluation: where its ground truth is, and which published benchmark it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa

from artimuse_actor.errors import ArtiMuseError, GroundTruthError
from jobs.evaluate.benchmarks import BENCHMARKS, Benchmark, get_benchmark
from jobs.evaluate.ground_truth import read_ground_truth
from jobs.evaluate.metrics.estimate import Agreement
from jobs.evaluate.options import EvaluateOptions
from jobs.evaluate.tar_truths import tar_truths
from jobs.evaluate.truth_columns import TruthColumns
from jobs.manifest.braces import has_braces
from jobs.manifest.manifest import ManifestOptions
from jobs.manifest.source import open_manifest, open_tars
from jobs.store.run_record import read_runs
from jobs.store.store import Store

FEW_FOR_A_CURVE = 100


@dataclass(frozen=True)
class DataSet:
    """Ground truth and where it is from.

    Attributes:
        name: of the data set.
        source: where its ground truth is read.
        truths: reads it, in batches of `key`, `truth`, and perhaps `group` and `cluster`.
        benchmark: the published benchmark, if it is one.
    """

    name: str
    source: str
    truths: Callable[[], Iterable[pa.Table]]
    benchmark: Benchmark | None = None


def find_data_set(source: str | None, options: EvaluateOptions, store: Store | None, out: str) -> DataSet:
    """The data set of a file, or else of what a store scored last.

    Args:
        source: as of `read_ground_truth`; None for the manifest of the last run.
        options: see `EvaluateOptions`.
        store: whose runs to ask; None for scores that are no store.
        out: where the scores are, as the user gave it.

    Raises:
        GroundTruthError: there is none.
        UsageError: there is no such benchmark.
    """
    if source is not None:
        path = source
        name, benchmark = name_data_set(path, options.benchmark)
        return DataSet(name, path, lambda: read_ground_truth(path, options.columns), benchmark)
    if store is None:
        raise GroundTruthError(f"{out}: is no store that knows what was scored. Name the ground truth, --ground-truth.")
    runs = [run["arguments"] for run in read_runs(store.place) if "source" in run["arguments"]]
    if not runs:
        raise GroundTruthError(f"{out}: does not say what was scored. Name the ground truth with --ground-truth.")
    arguments = runs[-1]
    own = str(arguments["source"])
    name, benchmark = name_data_set(own, options.benchmark)
    read = ManifestOptions.from_arguments(arguments)
    if tars := open_tars(own, read):
        return DataSet(name, own, lambda: tar_truths(tars, options.columns), benchmark)
    if own.endswith(".json") or options.columns != TruthColumns():
        key = options.columns.key or arguments.get("id_column") or arguments.get("uri_column")
        chosen = replace(options.columns, key=key)
        return DataSet(name, own, lambda: read_ground_truth(own, chosen), benchmark)
    return DataSet(name, own, lambda: _manifest_truths(own, read), benchmark)


def name_data_set(source: str, asked: str | None) -> tuple[str, Benchmark | None]:
    """The name of a data set, and the benchmark that it is, by the name given or the names of file and folder."""
    if asked is not None:
        benchmark = get_benchmark(asked)
        return benchmark.name, benchmark
    path = source if "://" in source else os.path.abspath(source)
    last = os.path.basename(path)
    stem = "" if has_braces(last) else last.split(".")[0]
    folder = os.path.basename(os.path.dirname(path))
    known = {name.lower(): name for name in BENCHMARKS}
    for name in (stem, folder):
        if name.lower() in known:
            return known[name.lower()], BENCHMARKS[known[name.lower()]]
    return (folder if stem in ("", "test", "manifest") and folder else stem), None


def _manifest_truths(source: str, options: ManifestOptions) -> Iterator[pa.Table]:
    try:
        for number, batch in enumerate(open_manifest(source, options).batches()):
            if not number and batch.rows["gt_score"].null_count == len(batch.rows):
                raise GroundTruthError(
                    f"{source}: has no `gt_score`. Name the ground truth with --ground-truth, or the column with "
                    "--truth-column."
                )
            yield pa.table({"key": batch.rows["image_id"], "truth": batch.rows["gt_score"]})
    except GroundTruthError:
        raise
    except ArtiMuseError as error:
        raise GroundTruthError(f"{error} Name the ground truth with --ground-truth.") from error


def truth_notes(benchmark: Benchmark | None, rows: int, low: float, high: float, sha256: str) -> list[str]:
    """Sentences about ground truth that is not a benchmark's published one.

    Args:
        benchmark: which it is, if any.
        rows: its rows, also those without a number.
        low: its lowest number.
        high: its highest.
        sha256: its content hash.
    """
    if benchmark is None or sha256 == benchmark.truth_sha256:
        return []
    notes = []
    if rows != benchmark.rows:
        notes.append(f"{benchmark.name}'s published split has {benchmark.rows:,} rows; this ground truth has {rows:,}.")
    known_low, known_high = benchmark.truth_range
    # The bounds are rounded.
    if low < known_low - 0.01 or high > known_high + 0.01:
        notes.append(
            f"{benchmark.name}'s published ground truth goes from {known_low:g} to {known_high:g}; this one from "
            f"{low:g} to {high:g}."
        )
    return notes or [f"This is not {benchmark.name}'s published ground truth, by its content hash."]


def curve_notes(agreement: Agreement) -> list[str]:
    """Warnings about PLCC after a logistic mapping."""
    if agreement.plcc_logistic4.value is None and agreement.plcc_logistic5.value is None:
        return []
    notes = []
    if agreement.n < FEW_FOR_A_CURVE:
        notes.append(
            f"PLCC after a logistic mapping flatters: {agreement.n} pairs are few for its four or five parameters."
        )
    if agreement.plcc.value is not None and agreement.plcc.value < 0:
        notes.append(
            f"The raw PLCC is negative ({agreement.plcc.value:.3f}): a logistic mapping turns the scores round, so "
            "PLCC after it is positive all the same."
        )
    return notes
