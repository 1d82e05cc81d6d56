"""The result file of the published evaluation scripts: `[{"image": …, "score": …}, …]`."""

from __future__ import annotations

import json
import os

import numpy as np

from artimuse_actor.errors import StoreError
from jobs.evaluate.evaluation import Evaluation


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
    try:
        with open(f"{path}.tmp", "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=4, ensure_ascii=False)
        os.replace(f"{path}.tmp", path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error}.") from error
    return len(rows)
