"""The metrics table: one row for each evaluation of a store, and for each group of it."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

SCHEMA_VERSION: Final = "3"

METRIC_NAMES: Final = (
    "srcc",
    "plcc",
    "plcc_logistic4",
    "plcc_logistic5",
    "krcc",
    "rmse",
    "mae",
    "accuracy",
    "accuracy_direct",
)

_DOCS: Final = {
    "srcc": "Spearman's rank correlation, ties at their average rank",
    "plcc": "Pearson's correlation of the raw scores",
    "plcc_logistic4": "Pearson's correlation after a logistic mapping with 4 parameters",
    "plcc_logistic5": "Pearson's correlation after a logistic mapping with 5 parameters",
    "krcc": "Kendall's tau-b",
    "rmse": "root mean squared error after the linear mapping, in points of the ground truth",
    "mae": "mean absolute error after the linear mapping, in points of the ground truth",
    "accuracy": "share of images on the same side of the threshold, scores after the linear mapping",
    "accuracy_direct": "share of images on the same side of their own thresholds, above which is good",
}


def _metric_fields(name: str) -> list[pa.Field]:
    return [
        pa.field(name, pa.float64(), metadata={"doc": _DOCS[name]}),
        pa.field(f"{name}_low", pa.float64(), metadata={"doc": "lower end of its interval"}),
        pa.field(f"{name}_high", pa.float64(), metadata={"doc": "upper end of its interval"}),
        pa.field(f"{name}_reason", pa.string(), metadata={"doc": "why the metric or its interval is null"}),
    ]


def _count(name: str, doc: str) -> pa.Field:
    return pa.field(name, pa.int64(), metadata={"unit": "row", "doc": doc})


METRICS: Final = pa.schema(
    [
        pa.field("data_set", pa.string(), nullable=False),
        pa.field("ground_truth", pa.string(), nullable=False, metadata={"doc": "where it was read"}),
        pa.field("ground_truth_sha256", pa.string(), metadata={"doc": "of its rows, as lines of name, tab and points"}),
        pa.field("scores", pa.string(), nullable=False, metadata={"doc": "where they are: a store or a file"}),
        pa.field("checkpoint", pa.string(), metadata={"doc": "a metric without its checkpoint means nothing"}),
        pa.field("checkpoint_digest", pa.string()),
        pa.field("protocol", pa.string()),
        pa.field("preprocessing", pa.string()),
        pa.field("question", pa.string(), nullable=False, metadata={"doc": "which score"}),
        pa.field("group_by", pa.string(), metadata={"doc": "column that splits the data set; null for all of it"}),
        pa.field("group", pa.string(), metadata={"doc": "its value"}),
        pa.field("n", pa.int64(), nullable=False, metadata={"unit": "row", "doc": "pairs of score and ground truth"}),
        _count("expected", "rows of ground truth with a number: scored + failed + missing + ambiguous"),
        _count("scored", "of these, rows whose image has a score"),
        _count("failed", "of these, rows whose image could not be read"),
        _count("missing", "of these, rows whose image is not there"),
        _count("ambiguous", "of these, rows whose name several images share"),
        _count("without_truth", "rows of ground truth without a number"),
        _count("doubled", "rows of ground truth that name an image again"),
        _count("extra", "images that no row of ground truth names"),
        pa.field("matched_by", pa.string(), metadata={"doc": "how ground truth names images: id, uri, path or name"}),
        *(field for name in METRIC_NAMES for field in _metric_fields(name)),
        pa.field("slope", pa.float64(), metadata={"doc": "of the linear mapping: truth = slope · score + intercept"}),
        pa.field("intercept", pa.float64()),
        pa.field("threshold", pa.float64(), metadata={"doc": "of the accuracy, in points of the ground truth"}),
        pa.field("score_threshold", pa.float64(), metadata={"doc": "of accuracy_direct, in points of the scores"}),
        pa.field("base_rate", pa.float64(), metadata={"doc": "accuracy of always giving the commoner answer"}),
        pa.field("interval", pa.string(), metadata={"doc": "how the intervals of correlations were made"}),
        pa.field("confidence", pa.float64(), metadata={"doc": "of every interval"}),
        pa.field("seed", pa.int64()),
        pa.field("resamples", pa.int64(), metadata={"doc": "or, of a jackknife, parts left out in turn"}),
        pa.field("cluster_by", pa.string(), metadata={"doc": "column, or pattern in names, that tells clusters"}),
        pa.field("clusters", pa.int64(), metadata={"doc": "drawn and left out whole; null if rows are"}),
        pa.field("resample_units", pa.int64(), metadata={"doc": "rows, or clusters, in each resample"}),
        pa.field("published_srcc", pa.float64(), metadata={"doc": "for the same checkpoint and data set"}),
        pa.field("published_plcc", pa.float64()),
        pa.field("published_source", pa.string()),
        pa.field("srcc_difference", pa.float64(), metadata={"doc": "ours minus the published value"}),
        pa.field("plcc_difference", pa.float64()),
        pa.field("code_version", pa.string(), nullable=False),
        pa.field("evaluated_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ],
    metadata={"schema_version": SCHEMA_VERSION},
)
