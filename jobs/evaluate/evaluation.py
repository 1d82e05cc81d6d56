"""The result of an evaluation: scores against ground truth, and the table of metrics."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from artimuse_actor.uris import without_secrets
from jobs.code_identity import CODE_VERSION
from jobs.evaluate.benchmarks import Benchmark, PublishedValue
from jobs.evaluate.join import JoinCounts, Pairs
from jobs.evaluate.metrics.estimate import Agreement, Difference
from schemas.fingerprint import Fingerprint
from schemas.metrics import METRIC_NAMES, METRICS


@dataclass(frozen=True)
class GroupAgreement:
    """One group of a data set.

    Attributes:
        name: value of the column that splits it.
        expected: rows of ground truth with a number.
        agreement: of those that have a score.
    """

    name: str
    expected: int
    agreement: Agreement


@dataclass(frozen=True)
class Disagreement:
    """An image that two stores score differently.

    Attributes:
        key: its name in the ground truth.
        truth: ground truth, on its own scale.
        score: in the first store.
        other: score in the other store.
    """

    key: str
    truth: float
    score: float
    other: float


@dataclass(frozen=True)
class Comparison:
    """Another store against the same ground truth.

    Attributes:
        out: where it is.
        fingerprint: of its scores; None for a table.
        counts: both sides of its join.
        difference: of the first store's metrics to its metrics, and both, on the rows that both have scored.
        disagreements: where their scores lie furthest apart.
    """

    out: str
    fingerprint: Fingerprint | None
    counts: JoinCounts
    difference: Difference
    disagreements: list[Disagreement]


@dataclass(frozen=True)
class Evaluation:
    """Scores against ground truth.

    Attributes:
        data_set: its name.
        ground_truth: where it was read.
        scores: where the scores are, as the user gave it.
        question: which score.
        fingerprint: of the scores; None for tables of unknown origin.
        counts: both sides of the join.
        agreement: all of it.
        groups: by a column of the ground truth, if asked for.
        group_by: that column.
        benchmark: the published benchmark, if it is one.
        published: what is published for this checkpoint on it.
        threshold: of the accuracies, on the scale of the ground truth.
        score_threshold: of the direct accuracy, on the scale of the scores.
        cluster_by: column of the ground truth, or pattern in its names, that tells clusters.
        notes: warnings about the data set.
        pairs: the rows themselves.
        against: another store, if asked for.
    """

    data_set: str
    ground_truth: str
    scores: str
    question: str
    fingerprint: Fingerprint | None
    counts: JoinCounts
    agreement: Agreement
    groups: list[GroupAgreement]
    group_by: str | None
    benchmark: Benchmark | None
    published: PublishedValue | None
    threshold: float | None
    score_threshold: float | None
    cluster_by: str | None
    notes: list[str]
    pairs: Pairs
    against: Comparison | None = None

    @property
    def label(self) -> str:
        """The scores' name in a table: checkpoint and digest, or the file's name."""
        if self.fingerprint:
            return f"{self.fingerprint.checkpoint}@{self.fingerprint.checkpoint_digest[:6]}"
        return os.path.basename(self.scores)

    def compared(self, against: Comparison) -> Evaluation:
        """The same with another set of scores beside it."""
        return replace(self, against=against)

    def to_table(self) -> pa.Table:
        """A table of schema `METRICS`: a row for all images, and one for each group."""
        rows = [self._row(self.agreement) | _count_columns(self.counts) | self._published_columns()]
        for group in self.groups:
            about = {"group_by": self.group_by, "group": group.name, "expected": group.expected}
            rows.append(self._row(group.agreement) | about | {"scored": group.agreement.n})
        return pa.Table.from_pylist(rows, schema=METRICS)

    def _row(self, agreement: Agreement) -> dict[str, Any]:
        row: dict[str, Any] = {
            "data_set": self.data_set,
            "ground_truth": without_secrets(self.ground_truth),
            "ground_truth_sha256": self.pairs.truth_sha256,
            "scores": without_secrets(self.scores),
            "question": self.question,
            "n": agreement.n,
            "slope": agreement.slope,
            "intercept": agreement.intercept,
            "threshold": self.threshold,
            "score_threshold": self.score_threshold,
            "base_rate": agreement.base_rate,
            "interval": agreement.interval,
            "confidence": agreement.confidence,
            "seed": agreement.seed,
            "resamples": agreement.resamples,
            "cluster_by": self.cluster_by if agreement.clusters is not None else None,
            "clusters": agreement.clusters,
            "resample_units": agreement.resample_units,
            "code_version": CODE_VERSION,
            "evaluated_at": datetime.now(UTC),
        }
        if self.fingerprint:
            names = ("checkpoint", "checkpoint_digest", "protocol", "preprocessing")
            row |= {name: getattr(self.fingerprint, name) for name in names}
        for name in METRIC_NAMES:
            if estimate := getattr(agreement, name):
                row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
                row[f"{name}_reason"] = estimate.reason
        return row

    def _published_columns(self) -> dict[str, Any]:
        if self.published is None:
            return {}
        columns: dict[str, Any] = {"published_source": self.published.source}
        for name in ("srcc", "plcc"):
            ours, theirs = getattr(self.agreement, name).value, getattr(self.published, name)
            columns |= {f"published_{name}": theirs}
            columns |= {f"{name}_difference": None if ours is None else ours - theirs}
        return columns


@dataclass(frozen=True)
class SideBySide:
    """Several sets of scores against the same ground truth.

    Attributes:
        evaluations: one for each.
        differences: numbers of two of them, the lower first → the first's metrics minus the second's, on the rows that
            all have scored.
    """

    evaluations: list[Evaluation]
    differences: dict[tuple[int, int], Difference]

    def first(self) -> SideBySide:
        """The first set of scores alone, which may say what it was compared with."""
        return SideBySide(self.evaluations[:1], {})


def _count_columns(counts: JoinCounts) -> dict[str, Any]:
    names = ("expected", "scored", "failed", "missing", "ambiguous", "without_truth", "doubled", "extra", "matched_by")
    return {name: getattr(counts, name) for name in names}
