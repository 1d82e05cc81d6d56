"""The result file of the published evaluation scripts: `[{"image": …, "score": …}, …]`."""

from __future__ import annotations

import json

import numpy as np

from jobs.evaluate.evaluation import Evaluation
from jobs.storage.user_files import write_user_file


def write_results(evaluation: Evaluation, path: str) -> int:
    """Write the scores in the order of the ground truth, under its names; rows without a score have none there.

    Returns:
        The number of rows.

    Raises:
        StoreError: the file cannot be written.
    """
    scores = evaluation.pairs.scores[0]
    scored = np.flatnonzero(~np.isnan(scores))
    rows = [
        {"image": key, "score": float(score)}
        for key, score in zip(evaluation.pairs.keys.take(scored).to_pylist(), scores[scored], strict=True)
    ]
    with write_user_file(path) as growing, open(growing, "w", encoding="utf-8") as file:
        json.dump(rows, file, indent=4, ensure_ascii=False)
    return len(rows)
