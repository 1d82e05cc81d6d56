"""Scores + ground truth → SRCC, PLCC, KRCC and their intervals, with both sides of the join counted.

from jobs.evaluate import evaluate
evaluation = evaluate(scores, ground_truth)        # two Arrow tables
evaluation.agreement.srcc.value, evaluation.counts.missing
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from artimuse_actor.errors import BrokenFile, GroundTruthError
from jobs.evaluate.benchmarks import get_benchmark
from jobs.evaluate.clusters import find_clusters
from jobs.evaluate.data_set import DataSet, curve_notes, find_data_set, truth_notes
from jobs.evaluate.evaluation import Comparison, Disagreement, Evaluation, GroupAgreement, SideBySide
from jobs.evaluate.ground_truth import names_table
from jobs.evaluate.join import Pairs, ScoreIndex, choose_match, clean_names, pair, path_depths
from jobs.evaluate.metrics.agreement import Clusters, measure_agreement, measure_differences
from jobs.evaluate.metrics.estimate import Agreement
from jobs.evaluate.metrics.holm import holm_corrected
from jobs.evaluate.options import EvaluateOptions
from jobs.evaluate.scores import Scores, open_scores, scores_table
from jobs.evaluate.truth_columns import truth_table
from jobs.storage.parquet import parquet_bytes, read_parquet
from jobs.storage.place import Place
from jobs.store.layout import metrics_path
from jobs.store.store import Store
from jobs.store.stores import matching_stores

DISAGREEMENTS: Final = 10
_NAMES_TO_CHOOSE_BY: Final = 200_000


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
        UsageError: there is no such benchmark.
    """
    benchmark = get_benchmark(options.benchmark) if options.benchmark else None
    if options.question:
        question = options.question
    elif benchmark and question not in scores.column_names:
        question = benchmark.question
    for name in ("image_id", question):
        if name not in scores.column_names:
            raise GroundTruthError(f"The scores have no column {name!r} (but {', '.join(scores.column_names[:20])}).")
    table = scores_table(scores, question)
    truths = truth_table(ground_truth, options.columns, "The ground truth")
    name = benchmark.name if benchmark else "ground truth"
    data_set = DataSet(name, "a table", lambda: [truths], benchmark)
    return compare([Scores("a table", question, lambda: [table])], data_set, options).evaluations[0]


def evaluate_store(
    out: str,
    ground_truth: str | None,
    options: EvaluateOptions = EvaluateOptions(),
    against: str | None = None,
    *,
    keep: bool = True,
) -> Evaluation:
    """Compare the scores of a store, or of a table, with ground truth, and write the metrics beside a store's scores.

    Args:
        out: the store, a pattern of stores whose rows count together, or a file of scores.
        ground_truth: as of `read_ground_truth`; None for the manifest of the last run.
        options: see `EvaluateOptions`.
        against: another store or file, to be compared with.
        keep: whether the metrics are written; a report only reads.

    Raises:
        StoreError: there is no store.
        GroundTruthError: there is no ground truth, or it cannot be read.
        UsageError: the store has no such score, or there is no such benchmark.
    """
    evaluation = evaluate_all([out, *([against] if against else [])], ground_truth, options).evaluations[0]
    if keep:
        write_metrics(evaluation)
    return evaluation


def evaluate_all(
    places: Sequence[str], ground_truth: str | None, options: EvaluateOptions = EvaluateOptions()
) -> SideBySide:
    """Compare several stores or tables of scores with the same ground truth, and with each other.

    Args:
        places: stores, or files of scores.
        ground_truth: as of `evaluate_store`; None for the manifest of the first one's last run.
        options: see `EvaluateOptions`.

    Raises:
        StoreError: there is no store.
        GroundTruthError: there is no ground truth, or a file cannot be read.
        UsageError: a store has no such score, or there is no such benchmark.
    """
    stores = [] if names_table(places[0]) else matching_stores(places[:1])
    if len(stores) > 1 and ground_truth is None:
        raise GroundTruthError("Several stores were scored from several sources. Name one with --ground-truth.")
    store = Store.open(stores[0]) if stores else None
    data_set = find_data_set(ground_truth, options, store, places[0])
    origins = [
        open_scores(place, options.question, data_set.benchmark, options.id_column, allow_mixed=options.allow_mixed)
        for place in places
    ]
    return compare(origins, data_set, options)


def write_metrics(evaluation: Evaluation) -> bool:
    """Write metrics beside a store's scores; they replace those of an earlier evaluation on the same data set.

    Ground truth of another place and content is another data set, whatever its file is called.

    Returns:
        Whether there is one store to write to: the scores of a file, or of several stores, have none.
    """
    names = matching_stores([evaluation.scores]) if evaluation.fingerprint else []
    if len(names) != 1:
        return False
    store = Store.open(names[0])
    name = re.sub(r"[^\w.-]+", "-", f"{evaluation.data_set}-{evaluation.question}")
    table = evaluation.to_table()
    if _is_of_another_truth(store.place, metrics_path(name), table):
        name += f"-{hashlib.sha256(table['ground_truth'][0].as_py().encode()).hexdigest()[:8]}"
    store.place.write(metrics_path(name), parquet_bytes(table))
    return True


def _is_of_another_truth(place: Place, path: str, metrics: pa.Table) -> bool:
    names = ["ground_truth", "ground_truth_sha256"]
    try:
        found = read_parquet(place, path, names)
    except (FileNotFoundError, BrokenFile):  # there is none, or one of an earlier version
        return False
    return len(found) > 0 and all(found[name][0] != metrics[name][0] for name in names)


def compare(origins: Sequence[Scores], data_set: DataSet, options: EvaluateOptions) -> SideBySide:
    """Compare sets of scores with ground truth, and with each other on the rows that all have."""
    indexes = tuple(_index(scores, data_set, options.match) for scores in origins)
    pairs = pair(data_set.truths(), indexes)
    preset = data_set.benchmark.cluster if data_set.benchmark else None
    clusters, cluster_by, note = find_clusters(pairs.keys, pairs.clusters, options.columns.cluster, preset)
    notes = [*_truth_notes(pairs, data_set), *([note] if note else [])]
    evaluations = [
        _evaluation(scores, data_set, options, pairs.of(number), clusters, cluster_by, notes)
        for number, scores in enumerate(origins)
    ]
    differences = {}
    if len(origins) > 1:
        differences = holm_corrected(
            measure_differences(
                pairs.scores, pairs.truths, clusters=clusters, seed=options.seed, resamples=options.resamples
            )
        )
    found = SideBySide(evaluations, differences)
    if len(origins) == 2:
        other = evaluations[1]
        against = Comparison(other.scores, other.fingerprint, other.counts, differences[0, 1], _disagreements(pairs))
        evaluations[0] = evaluations[0].compared(against)
    return found


def _evaluation(
    scores: Scores,
    data_set: DataSet,
    options: EvaluateOptions,
    pairs: Pairs,
    clusters: Clusters | None,
    cluster_by: str | None,
    notes: list[str],
) -> Evaluation:
    benchmark, fingerprint = data_set.benchmark, scores.fingerprint
    threshold, score_threshold = options.threshold, options.score_threshold
    if benchmark and threshold is None:
        threshold = benchmark.threshold
        # The scale of a benchmark's checkpoints; other tables may have any.
        if score_threshold is None and fingerprint:
            score_threshold = benchmark.score_threshold

    def agreement(rows: NDArray[np.bool_] | slice = slice(None)) -> Agreement:
        return measure_agreement(
            pairs.scores[0][rows],
            pairs.truths[rows],
            clusters=None if clusters is None else clusters[rows],
            seed=options.seed,
            resamples=options.resamples,
            truth_threshold=threshold,
            score_threshold=score_threshold,
        )

    groups = []
    if pairs.groups is not None:
        codes = pairs.groups.combine_chunks().dictionary_encode()
        numbers = codes.indices.to_numpy()
        for number, name in sorted(enumerate(codes.dictionary.to_pylist()), key=lambda entry: entry[1]):
            rows = numbers == number
            groups.append(GroupAgreement(name, int(rows.sum()), agreement(rows)))
    checkpoint = fingerprint.checkpoint.split("@")[0] if fingerprint else None  # a revision is the same checkpoint
    whole = agreement()
    return Evaluation(
        data_set=data_set.name,
        ground_truth=data_set.source,
        scores=scores.place,
        question=scores.question,
        fingerprint=fingerprint,
        counts=pairs.counts[0],
        agreement=whole,
        groups=groups,
        group_by=options.columns.group,
        benchmark=benchmark,
        published=benchmark.published.get(checkpoint) if benchmark and checkpoint else None,
        threshold=threshold,
        score_threshold=score_threshold,
        cluster_by=cluster_by,
        notes=[*notes, *curve_notes(whole)],
        pairs=pairs,
    )


def _index(scores: Scores, data_set: DataSet, match: str | None) -> ScoreIndex:
    def make(match: str) -> ScoreIndex:
        depths = _depths(data_set.truths()) if match == "path" else ()
        return ScoreIndex(scores.batches(), scores.question, match, depths)

    return make(match) if match else choose_match(_some_names(data_set.truths()), make)


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


def _truth_notes(pairs: Pairs, data_set: DataSet) -> list[str]:
    counts = pairs.counts[0]
    low, high = (float(pairs.truths.min()), float(pairs.truths.max())) if len(pairs.truths) else (np.inf, -np.inf)
    return truth_notes(data_set.benchmark, counts.expected + counts.without_truth, low, high, pairs.truth_sha256)


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
