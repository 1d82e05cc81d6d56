"""The top-k rows of each group.

The rows of each number of points are counted. Of a group all above the points of its last place are taken, and of those
with just these points the ones with the smallest image_id, in byte order; no other id is read.

A sample is a quota too: of random points, which depend on the image_id and the seed alone, in groups of like scores.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from artimuse_actor.errors import UsageError
from jobs.manifest.id_index import keyed_hashes
from jobs.store.database import ROW, Database, identifier

SCORE_BINS: Final = 20
"""Strata of a sample: 5 points each."""

MAX_SEED: Final = 10**15
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Top:
    """The size of each group's selection: a number, or a share of the rows.

    Attributes:
        text: as the user gave it.
        count: rows of each group, if it is a number.
        share: of the rows of the group, rounded up, if it is a percentage.
    """

    text: str
    count: int | None
    share: Fraction | None

    @property
    def places(self) -> str:
        """Rows to take from a group of `total` rows, as SQL."""
        if self.share is None:
            return f"least(total, {self.count})"
        return f"(total * {self.share.numerator} + {self.share.denominator - 1}) // {self.share.denominator}"


def read_top(text: str) -> Top:
    """`10%`, `0.5%` or `50000`. Raises UsageError."""
    match = re.fullmatch(r"(\d{1,15})|(\d{1,3}(?:\.\d{1,9})?)\s*%", text.strip())
    if not match:
        raise UsageError(f"--top takes a share such as 10% or a number such as 50000, not {text!r}.")
    if match[1]:
        if not int(match[1]):
            raise UsageError("--top 0 would take nothing. It takes a share such as 10% or a number from 1.")
        return Top(text, int(match[1]), None)
    share = Fraction(match[2]) / 100
    if not 0 < share <= 1:
        raise UsageError(f"--top {text}: a share is above 0% and at most 100%.")
    return Top(text, None, share)


def shares_of_sample(size: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """A sample of `size` spread over strata in proportion to their rows, by largest remainders: (G,) int64."""
    total = int(rows.sum())
    size = min(size, total)
    if not total:
        return np.zeros_like(rows)
    exact = [Fraction(int(count) * size, total) for count in rows]
    places = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(rows)), key=lambda stratum: (places[stratum] - exact[stratum], stratum))
    for stratum in by_remainder[: size - sum(places)]:
        places[stratum] += 1
    return np.array(places, dtype=np.int64)


def stratum(points: str) -> str:
    """The stratum of a score, as SQL."""
    return f"least({SCORE_BINS - 1}, greatest(0, trunc({points} * {SCORE_BINS / 100}::DOUBLE)))::TINYINT"


def random_points(image_ids: pa.Array | pa.ChunkedArray, seed: int) -> Points:
    """Points that look random and depend on id and seed alone: (N,) float64 below 100."""
    return (keyed_hashes(image_ids, f"{seed:016}") >> np.uint64(11)).astype(np.float64) * (100 / 2**53)


def best_rows(database: Database, ranked: str, places: str) -> str:
    """A query of `row`: those that take the places of their groups.

    Args:
        database: has the view `scores`.
        ranked: a table of `row`, `held`, `grp` and `points`; `held` is the `ROW` in the view.
        places: as SQL, how many rows to take of the group `grp` with `total` rows, at most all.
    """
    # A table, so that its size is known: of a query DuckDB expects so much that it would hash all ids of the store.
    database.run(
        f"""
        CREATE OR REPLACE TABLE near AS
        WITH counted AS (
            SELECT grp, points, count(*) AS rows FROM {ranked} GROUP BY grp, points
        ), ordered AS (
            SELECT *, sum(rows) OVER (PARTITION BY grp ORDER BY points DESC) AS upto,
                sum(rows) OVER (PARTITION BY grp) AS total
            FROM counted
        ), last AS (
            SELECT grp, points, rows, {places} - (upto - rows) AS open FROM ordered
            WHERE upto - rows < {places} AND {places} <= upto
        )
        SELECT row, held, mine.grp, open, mine.points > last.points OR open = rows AS taken
        FROM {ranked} AS mine JOIN last ON mine.grp IS NOT DISTINCT FROM last.grp AND mine.points >= last.points"""
    )
    return f"""
        SELECT row FROM near WHERE taken
        UNION ALL (
            SELECT near.row FROM near JOIN scores ON near.held = scores.{identifier(ROW)} WHERE NOT near.taken
            QUALIFY row_number() OVER (PARTITION BY near.grp ORDER BY image_id) <= near.open
        )"""
