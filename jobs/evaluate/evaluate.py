"""Scores + ground truth → SRCC, PLCC, KRCC and their intervals, with both sides of the join counted.

from jobs.evaluate import evaluate
evaluation = evaluate(scores, ground_truth)        # two Arrow tables
evaluation.agreement.srcc.value, evaluation.counts.missing
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from artimuse_actor.errors import ArtiMuseError, GroundTruthError, UsageError
from jobs.evaluate.benchmarks import BENCHMARKS, Benchmark, get_benchmark
from jobs.evaluate.evaluation import Comparison, Disagreement, Evaluation, GroupAgreement
from jobs.evaluate.ground_truth import TruthColumns, read_ground_truth, tar_truths, truth_table
from jobs.evaluate.join import MATCHES, Pairs, ScoreIndex, choose_match, clean_names, pair, path_depths
from jobs.evaluate.metrics.agreement import measure_agreement, measure_difference
from jobs.evaluate.metrics.estimate import Agreement
from jobs.manifest.manifest import ManifestOptions
from jobs.manifest.source import open_manifest, open_tars
from jobs.storage.parquet import parquet_bytes, read_parquet
from jobs.store.layout import metrics_path
from jobs.store.run_record import read_runs
from jobs.store.store import Store
from schemas.fingerprint import Fingerprint

DISAGREEMENTS: Final = 10
_NAMES_TO_CHOOSE_BY: Final = 200_000
_KEYS: Final = ["image_id", "uri", "status", "error_type"]


@dataclass(frozen=True)
class EvaluateOptions:
    """Options for comparing scores with ground truth.

    Attributes:
        columns: roles of the ground truth's columns.
        match: the way it names images, one of `MATCHES`; None to detect it.
        question: which score; None for the benchmark's, or the first.
        benchmark: whose published values to compare with; None to go by the name of the ground truth's folder.
        threshold: lowest good value on the ground truth's scale, for binary accuracy; None for the benchmark's.
        seed: of everything drawn.
        resamples: of the bootstrap.
    """

    columns: TruthColumns = field(default_factory=TruthColumns)
    match: str | None = None
    question: str | None = None
    benchmark: str | None = None
    threshold: float | None = None
    seed: int = 0
    resamples: int = 1000

    def __post_init__(self) -> None:
        if self.match is not None and self.match not in MATCHES:
            raise UsageError(f"--match takes {', '.join(MATCHES)}, not {self.match!r}.")
        if not 1 <= self.resamples <= 100_000:
            raise UsageError(f"--resamples takes a whole number from 1 to 100,000, not {self.resamples}.")
        if self.seed < 0:
            raise UsageError(f"--seed takes a whole number from 0, not {self.seed}.")


def evaluate(
    scores: pa.Table, ground_truth: pa.Table, options: EvaluateOptions = EvaluateOptions(), *, question: str = "score"
) -> Evaluation:
    """Compare a table of scores with a table of ground truth.

    Args:
        scores: `image_id` and a column of scores; of a scores table also `uri`, `status` and `error_type`. Without a
            status, rows with a score are ok.
        ground_truth: a column that names the image, see `TruthColumns`, and `gt_score`.
        options: see `EvaluateOptions`.
        question: which column of scores.

    Raises:
        GroundTruthError: a column is missing or of another type.
    """
    question = options.question or question
    for name in ("image_id", question):
        if name not in scores.column_names:
            raise GroundTruthError(f"The scores have no column {name!r} (but {', '.join(scores.column_names[:20])}).")
    if "status" not in scores.column_names:
        ok = pc.if_else(pc.is_valid(scores[question]), "ok", "error")
        scores = scores.append_column("status", ok)
    for name in ("uri", "error_type"):
        if name not in scores.column_names:
            scores = scores.append_column(name, pa.nulls(len(scores), pa.string()))
    truths = truth_table(ground_truth, options.columns, "The ground truth")
    return _evaluate(
        lambda: [scores], lambda: [truths], options, question, data_set="ground truth", ground_truth="a table"
    )


def evaluate_store(
    out: str,
    ground_truth: str | None,
    options: EvaluateOptions = EvaluateOptions(),
    against: str | None = None,
    *,
    keep: bool = True,
) -> Evaluation:
    """Compare the scores of a store with ground truth, and write the metrics beside them.

    Args:
        out: the store.
        ground_truth: a `test.json`, CSV file or Parquet table; None for the manifest of the last run.
        options: see `EvaluateOptions`.
        against: another store, to be compared with.
        keep: whether the metrics are written; a report only reads.

    Raises:
        StoreError: there is no store.
        GroundTruthError: there is no ground truth, or it cannot be read.
        UsageError: the store has no such score, or there is no such benchmark.
    """
    store = Store.open(out)
    truths, source = _truths_of(store, out, ground_truth, options.columns)
    data_set, benchmark = _data_set(source, options.benchmark)
    question = _question(store, options.question, benchmark)
    other = Store.open(against) if against else None
    evaluation = _evaluate(
        lambda: _score_batches(store, question),
        truths,
        options,
        question,
        data_set=data_set,
        ground_truth=source,
        fingerprint=store.fingerprint,
        benchmark=benchmark,
        against=(against, other, _question(other, options.question, benchmark)) if other and against else None,
    )
    if keep:
        write_metrics(store, evaluation)
    return evaluation


def write_metrics(store: Store, evaluation: Evaluation) -> None:
    """Write metrics beside a store's scores; they replace those of an earlier evaluation on the same data set."""
    name = re.sub(r"[^\w.-]+", "-", f"{evaluation.data_set}-{evaluation.question}")
    store.place.write(metrics_path(name), parquet_bytes(evaluation.to_table()))


def _evaluate(
    scores: Callable[[], Iterable[pa.Table]],
    truths: Callable[[], Iterable[pa.Table]],
    options: EvaluateOptions,
    question: str,
    *,
    data_set: str,
    ground_truth: str,
    fingerprint: Fingerprint | None = None,
    benchmark: Benchmark | None = None,
    against: tuple[str, Store, str] | None = None,
) -> Evaluation:
    index = _index(scores, truths, question, options.match)
    indexes: tuple[ScoreIndex, ...] = (index,)
    if against:
        _, other, other_question = against
        indexes = (index, _index(lambda: _score_batches(other, other_question), truths, other_question, options.match))
    pairs = pair(truths(), indexes)
    threshold = options.threshold if options.threshold is not None else benchmark.threshold if benchmark else None

    def agreement(rows: NDArray[np.bool_] | slice = slice(None), which: int = 0) -> Agreement:
        return measure_agreement(
            pairs.scores[which][rows],
            pairs.truths[rows],
            seed=options.seed,
            resamples=options.resamples,
            truth_threshold=threshold,
        )

    groups = []
    if pairs.groups is not None:
        codes = pairs.groups.combine_chunks().dictionary_encode()
        numbers = codes.indices.to_numpy()
        for number, name in sorted(enumerate(codes.dictionary.to_pylist()), key=lambda entry: entry[1]):
            rows = numbers == number
            groups.append(GroupAgreement(name, int(rows.sum()), agreement(rows)))
    comparison = None
    if against:
        out, other, _ = against
        comparison = Comparison(
            out=out,
            fingerprint=other.fingerprint,
            counts=pairs.counts[1],
            agreement=agreement(which=1),
            difference=measure_difference(
                pairs.scores[0], pairs.scores[1], pairs.truths, seed=options.seed, resamples=options.resamples
            ),
            disagreements=_disagreements(pairs),
        )
    checkpoint = fingerprint.checkpoint.split("@")[0] if fingerprint else None  # a revision is the same checkpoint
    return Evaluation(
        data_set=data_set,
        ground_truth=ground_truth,
        question=question,
        fingerprint=fingerprint,
        counts=pairs.counts[0],
        agreement=agreement(),
        groups=groups,
        group_by=options.columns.group,
        benchmark=benchmark,
        published=benchmark.published.get(checkpoint) if benchmark and checkpoint else None,
        threshold=threshold,
        notes=_notes(pairs, benchmark),
        pairs=pairs,
        against=comparison,
    )


def _index(
    scores: Callable[[], Iterable[pa.Table]], truths: Callable[[], Iterable[pa.Table]], question: str, match: str | None
) -> ScoreIndex:
    def make(match: str) -> ScoreIndex:
        return ScoreIndex(scores(), question, match, _depths(truths()) if match == "path" else ())

    return make(match) if match else choose_match(_some_names(truths()), make)


def _some_names(truths: Iterable[pa.Table]) -> pa.ChunkedArray:
    chunks: list[pa.Array] = []
    for batch in truths:
        chunks += batch["key"].chunks
        if sum(map(len, chunks)) >= _NAMES_TO_CHOOSE_BY:
            break
    return pa.chunked_array(chunks, pa.string())


def _depths(truths: Iterable[pa.Table]) -> list[int]:
    """The numbers of components that names of ground truth have."""
    depths: set[int] = set()
    for batch in truths:
        depths.update(np.unique(path_depths(clean_names(batch["key"]))).tolist())
    return sorted(depths)


def _disagreements(pairs: Pairs) -> list[Disagreement]:
    ours, theirs = pairs.scores
    apart = np.nan_to_num(np.abs(ours - theirs), nan=-1.0)
    furthest = np.argsort(-apart, kind="stable")[:DISAGREEMENTS]
    keys = pairs.keys.take(pa.array(furthest)).to_pylist()
    return [
        Disagreement(key, float(pairs.truths[row]), float(ours[row]), float(theirs[row]))
        for key, row in zip(keys, furthest, strict=True)
        if apart[row] > 0
    ]


def _notes(pairs: Pairs, benchmark: Benchmark | None) -> list[str]:
    notes = []
    rows = pairs.counts[0].expected + pairs.counts[0].without_truth
    if benchmark and rows != benchmark.rows:
        notes.append(f"{benchmark.name}'s published split has {benchmark.rows:,} rows; this ground truth has {rows:,}.")
    if benchmark and benchmark.truth_range and len(pairs.truths):
        low, high = benchmark.truth_range
        found_low, found_high = float(pairs.truths.min()), float(pairs.truths.max())
        # Published bounds are rounded.
        if found_low < low - 0.01 or found_high > high + 0.01:
            notes.append(
                f"{benchmark.name}'s ground truth goes from {low:g} to {high:g} ({benchmark.truth_source}); this one "
                f"from {found_low:g} to {found_high:g}."
            )
    return notes


def _score_batches(store: Store, question: str) -> Iterator[pa.Table]:
    for path in store.table_files().scores_paths:
        yield read_parquet(store.place, path, [*_KEYS, question])


def _question(store: Store, asked: str | None, benchmark: Benchmark | None) -> str:
    if asked is None and benchmark and benchmark.question in store.questions:
        return benchmark.question
    return store.question("--question", asked)


def _data_set(source: str, asked: str | None) -> tuple[str, Benchmark | None]:
    """The name of a data set, and the benchmark that it is, by the name given or the names of file and folder."""
    if asked is not None:
        benchmark = get_benchmark(asked)
        return benchmark.name, benchmark
    path = source if "://" in source else os.path.abspath(source)
    stem = os.path.basename(path).split(".")[0]
    folder = os.path.basename(os.path.dirname(path))
    known = {name.lower(): name for name in BENCHMARKS}
    for name in (stem, folder):
        if name.lower() in known:
            return known[name.lower()], BENCHMARKS[known[name.lower()]]
    return (folder if stem in ("test", "manifest") and folder else stem), None


def _truths_of(
    store: Store, out: str, source: str | None, columns: TruthColumns
) -> tuple[Callable[[], Iterable[pa.Table]], str]:
    if source is not None:
        return (lambda: read_ground_truth(source, columns)), source
    runs = [run["arguments"] for run in read_runs(store.place) if "source" in run["arguments"]]
    if not runs:
        raise GroundTruthError(f"{out}: does not say what was scored. Name the ground truth with --ground-truth.")
    arguments = runs[-1]
    own = str(arguments["source"])
    options = ManifestOptions.from_arguments(arguments)
    if tars := open_tars(own, options):
        return (lambda: tar_truths(tars, columns)), own
    if own.endswith(".json") or columns != TruthColumns():
        key = columns.key or arguments.get("id_column") or arguments.get("uri_column")
        chosen = TruthColumns(key, columns.truth, columns.group)
        return (lambda: read_ground_truth(own, chosen)), own

    def truths() -> Iterator[pa.Table]:
        try:
            batches = open_manifest(own, options).batches()
            for number, batch in enumerate(batches):
                if not number and batch.rows["gt_score"].null_count == len(batch.rows):
                    raise GroundTruthError(
                        f"{own}: has no `gt_score`. Name the ground truth with --ground-truth, or the column with "
                        "--truth-column."
                    )
                yield pa.table({"key": batch.rows["image_id"], "truth": batch.rows["gt_score"]})
        except GroundTruthError:
            raise
        except ArtiMuseError as error:
            raise GroundTruthError(f"{error} Name the ground truth with --ground-truth.") from error

    return truths, own
