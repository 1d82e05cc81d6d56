"""Clusters of rows that share their content: by a column of the ground truth, or by a pattern in the images' names."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from artimuse_actor.errors import GroundTruthError
from jobs.evaluate.truth_columns import NO_CLUSTERS


def find_clusters(
    names: pa.ChunkedArray, column: pa.ChunkedArray | None, asked: str | None, preset: str | None
) -> tuple[NDArray[np.int64] | None, str | None, str | None]:
    """A number for each of M rows, equal within a cluster.

    Args:
        names: (M,) of the images.
        column: (M,) of the ground truth's column of clusters, if it has the one asked for.
        asked: that column, a pattern, or `NO_CLUSTERS`.
        preset: the benchmark's pattern, if nothing is asked for.

    Returns:
        (M,) numbers, or None for independent rows; what tells them apart; and a note if a preset does not fit.

    Raises:
        GroundTruthError: it is no column, and no pattern that each name matches.
    """
    if column is not None:
        return _codes(column), asked, None
    if asked == NO_CLUSTERS or (pattern := asked or preset) is None or not len(names):
        return None, None, None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise GroundTruthError(
            f"--cluster {pattern!r}: the ground truth has no such column, and it is no regular expression: {error}."
        ) from error
    matches = [compiled.search(name) for name in names.to_pylist()]
    unmatched = [number for number, match in enumerate(matches) if match is None]
    if unmatched:
        what = f"{len(unmatched):,} of {len(names):,} names do not match, such as {names[unmatched[0]].as_py()!r}"
        if not asked:
            return None, None, f"Rows count as independent, since the names are not the benchmark's ({what})."
        raise GroundTruthError(f"--cluster {asked!r}: the ground truth has no such column, and as a pattern {what}.")
    group = 1 if compiled.groups else 0
    return _codes(pa.array([match[group] for match in matches if match])), pattern, None


def _codes(values: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    codes: NDArray[np.int64] = values.dictionary_encode("encode").indices.to_numpy().astype(np.int64)
    return codes
