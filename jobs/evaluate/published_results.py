"""The result files of the published evaluation scripts, byte for byte as those write them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from artimuse_actor.protocol.protocols import published_name
from jobs.evaluate.evaluation import Evaluation
from jobs.storage.user_files import refuse_other_file, write_user_file

_UNIPERCEPT = "unipercept"


def check_results(path: str) -> None:
    """Raise UsageError if a file is there that no such script writes, such as the ground truth."""
    refuse_other_file("--results", path, "file of results", b'"score":')


def write_results(evaluation: Evaluation, path: str) -> int:
    """Write the scores in the order of the ground truth, under its names.

    ArtiMuse's script writes `image` and `score` of the rows that have one, in ASCII; UniPercept's all rows, with
    `gt_score`, and null for a score that there is none of. The protocol of the scores decides.

    Returns:
        The number of rows.

    Raises:
        StoreError: the file cannot be written.

    Source: ArtiMuse, `eval_dataset.py` at 750d980; UniPercept, `eval_vr.py` at 34660ff.
    """
    pairs = evaluation.pairs
    scores: list[Any] = [None if np.isnan(score) else score for score in pairs.scores[0].tolist()]
    is_unipercept = (
        evaluation.fingerprint is not None and published_name(evaluation.fingerprint.protocol) == _UNIPERCEPT
    )
    rows: list[dict[str, Any]]
    if is_unipercept:
        whole = bool((pairs.truths == np.floor(pairs.truths)).all())  # ISTA-10K's file has whole numbers
        truths = [int(truth) if whole else truth for truth in pairs.truths.tolist()]
        rows = [
            {"image": key, "gt_score": truth, "score": score}
            for key, truth, score in zip(pairs.keys.to_pylist(), truths, scores, strict=True)
        ]
    else:
        named = zip(pairs.keys.to_pylist(), scores, strict=True)
        rows = [{"image": key, "score": score} for key, score in named if score is not None]
    with write_user_file(path) as growing, open(growing, "w", encoding="utf-8") as file:
        json.dump(rows, file, indent=2, ensure_ascii=not is_unipercept)
    return len(rows)
