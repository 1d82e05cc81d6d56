"""Ground truth in a report: metrics, their charts, and the residuals of the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from artimuse_actor.errors import ArtiMuseError, StoreError, UsageError
from jobs.evaluate.evaluate import evaluate_store
from jobs.evaluate.evaluation import Evaluation
from jobs.evaluate.options import EvaluateOptions
from jobs.evaluate.text import correlations
from jobs.report.charts import Chart, agreement_chart, calibration_chart, residual_chart
from jobs.storage.parquet import read_parquet
from jobs.storage.place import Place
from jobs.storage.user_tables import is_table
from jobs.store.layout import METRICS
from jobs.store.run_record import read_runs
from jobs.store.store import Store

_KEPT: Final = [
    *("data_set", "checkpoint", "question", "group_by", "n", "expected"),
    *("srcc", "srcc_low", "srcc_high", "plcc", "krcc", "evaluated_at"),
]
_MOST_KEPT: Final = 30


@dataclass(frozen=True)
class Truth:
    """Scores against ground truth, with what a report draws of it.

    Attributes:
        evaluation: the numbers.
        charts: agreement, calibration, residuals.
        residuals: (M,) ground truth less the line; NaN without a score or a line.
    """

    evaluation: Evaluation
    charts: list[Chart]
    residuals: NDArray[np.float64]


def read_truth(
    stores: Sequence[Store], named: Sequence[str], ground_truth: str | None, options: EvaluateOptions
) -> Truth | None:
    """Compare stores with ground truth, and leave them as they are; None if there is nothing to compare with.

    Args:
        stores: whose scores.
        named: what the user called them: one store or pattern.
        ground_truth: a file; None for what was scored last, if that is a table that may have ground truth.
        options: as for `evaluate`.

    Raises:
        ArtiMuseError: as `evaluate_store`, of a file that the user named.
    """
    if ground_truth is None and (len(stores) > 1 or not _may_have_truth(stores[0])):
        return None
    if len(named) > 1:
        raise UsageError("--ground-truth goes with one store, or one pattern of stores, such as 'runs/*'.")
    try:
        evaluation = evaluate_store(named[0], ground_truth, options, keep=False)
    except ArtiMuseError:
        if ground_truth is not None:
            raise
        return None
    return measured(evaluation)


def measured(evaluation: Evaluation) -> Truth:
    """The charts of an evaluation."""
    scores, truths = evaluation.pairs.scores[0], evaluation.pairs.truths
    slope, intercept = evaluation.agreement.slope, evaluation.agreement.intercept
    residuals = np.full(len(truths), np.nan)
    if slope is not None and intercept is not None:
        residuals = truths - slope * scores - intercept
    usable = np.isfinite(scores) & np.isfinite(truths)
    x, y = scores[usable], truths[usable]
    found = correlations(evaluation.agreement)
    charts = []
    if len(x):
        charts = [
            agreement_chart(
                x, y, slope, intercept, f"{len(x):,} pairs of score and ground truth; {found or 'no metric'}."
            ),
            calibration_chart(x, y, slope, intercept),
        ]
    if slope is not None and len(x):
        error = evaluation.agreement.rmse.value
        said = "Ground truth less the line, by score" + (f"; its RMSE is {error:.3g}." if error is not None else ".")
        charts.append(residual_chart(x, residuals[usable], said))
    return Truth(evaluation, charts, residuals)


def kept_metrics(place: Place) -> list[dict[str, Any]]:
    """Metrics that `artimuse evaluate` wrote into a store, newest first; files that are not ours are skipped."""
    rows: list[dict[str, Any]] = []
    for file in place.files(METRICS):
        if file.path.endswith(".parquet"):
            try:
                table = read_parquet(place, file.path, _KEPT)
            except (StoreError, FileNotFoundError):
                continue
            rows += [row for row in table.slice(0, _MOST_KEPT).to_pylist() if row["group_by"] is None]
    return sorted(rows, key=lambda row: row["evaluated_at"], reverse=True)[:_MOST_KEPT]


def _may_have_truth(store: Store) -> bool:
    """True if the last scored source is a table: a folder of pictures has no ground truth and may be slow to list."""
    sources: Sequence[str] = [str(run["arguments"].get("source", "")) for run in read_runs(store.place)]
    return bool(sources) and (sources[-1].lower().endswith(".json") or is_table(sources[-1]))
