"""Evaluations as JSON for scripts: everything except the rows themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from artimuse_actor.uris import without_secrets
from jobs.evaluate.benchmarks import revision_of
from jobs.evaluate.evaluation import Comparison, Evaluation
from jobs.evaluate.join import JoinCounts
from jobs.evaluate.metrics.estimate import Difference


def evaluations_json(
    evaluations: Sequence[Evaluation], differences: Mapping[tuple[int, int], Difference]
) -> list[dict[str, Any]]:
    """A list, also of one; each has its differences to those after it.

    Args:
        evaluations: any.
        differences: numbers of two of them → the first's metrics minus the second's.
    """
    found = [_evaluation_json(evaluation) for evaluation in evaluations]
    for (first, second), difference in differences.items():
        other = {"to": found[second]["scores"], "to_number": second, "data_set": found[second]["data_set"]}
        found[first]["differences"].append(other | asdict(difference))
    return found


def _known_by(evaluation: Evaluation) -> dict[str, str | None]:
    revision = revision_of(evaluation.fingerprint.checkpoint) if evaluation.fingerprint else None
    return {"matched_by": "name", "revision": revision}


def _evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    published, benchmark = evaluation.published, evaluation.benchmark
    sha256 = evaluation.pairs.truth_sha256
    return {
        "data_set": evaluation.data_set,
        "ground_truth": without_secrets(evaluation.ground_truth),
        "ground_truth_sha256": sha256,
        "ground_truth_as_published": benchmark.truth_sha256 == sha256 if benchmark else None,
        "scores": without_secrets(evaluation.scores),
        "question": evaluation.question,
        "fingerprint": asdict(evaluation.fingerprint) if evaluation.fingerprint else None,
        "counts": _counts_json(evaluation.counts),
        "metrics": asdict(evaluation.agreement),
        "cluster_by": evaluation.cluster_by,
        "threshold": evaluation.threshold,
        "score_threshold": evaluation.score_threshold,
        "groups": {group.name: {"expected": group.expected, **asdict(group.agreement)} for group in evaluation.groups},
        "published": {**asdict(published), **_known_by(evaluation)} if published else None,
        "notes": evaluation.notes,
        "against": _comparison_json(evaluation.against) if evaluation.against else None,
        "differences": [],
    }


def _counts_json(counts: JoinCounts) -> dict[str, Any]:
    return {**vars(counts), "errors": dict(counts.errors)}


def _comparison_json(against: Comparison) -> dict[str, Any]:
    return {
        "out": without_secrets(against.out),
        "fingerprint": asdict(against.fingerprint) if against.fingerprint else None,
        "counts": _counts_json(against.counts),
        "difference": asdict(against.difference),
        "disagreements": [asdict(row) for row in against.disagreements],
    }
