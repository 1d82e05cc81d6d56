"""Keep the best of pictures that were taken together and look alike: bursts, brackets and second tries.

A burst is of one camera, and each of its pictures was taken within a few seconds of the one before. Two pictures of it
are alike if their perceptual hashes differ in a third of their bits at most: more than near-duplicates of any time may,
since a subject moves and a hand shakes. Hashes of two different pictures differ in half of them; so few are shared by
chance by 2 or 3 of 1,000 pairs, and only pairs within a burst are compared.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from artimuse_actor.errors import UsageError
from jobs.curate.candidates import CHOSEN_SCORES
from jobs.curate.duplicates import Groups, drop_followers
from jobs.curate.equal_hashes import Codes, Rows, hash_words
from jobs.curate.near_duplicates import hamming
from jobs.store.database import Database

BURST: Final = "burst"
WITHIN_S: Final = 2.0
DISTANCE: Final = 20
"""Bits in which the hashes of pictures of one burst may differ."""
LARGEST: Final = 10_000
"""Pictures of one burst; more have a time that says nothing, such as that of a scanner, and no two are compared."""


def read_best_of(best_of: str | None, within_s: float | None) -> float | None:
    """The time between pictures of a burst, by --best-of and --within; None if bursts stay. Raises UsageError."""
    if best_of is None:
        if within_s is not None:
            raise UsageError("--within is about bursts. Add --best-of burst.")
        return None
    if best_of != BURST:
        raise UsageError(f"--best-of takes burst, not {best_of!r}.")
    return WITHIN_S if within_s is None else within_s


def keep_best_of_bursts(database: Database, within_s: float) -> Groups:
    """Keep the best candidate of each burst, and the best of those that are not like it; ties as for duplicates."""
    candidates = (
        "SELECT chosen.row, chosen.points, image_id, phash, taken_at, coalesce(camera, '') AS camera "
        f"FROM {CHOSEN_SCORES}"
    )
    numbered = (
        "SELECT *, sum(begins) OVER (ORDER BY camera, taken_at, image_id ROWS UNBOUNDED PRECEDING) AS burst FROM "
        "(SELECT *, CASE WHEN camera = lag(camera) OVER taken AND "
        f"taken_at <= lag(taken_at) OVER taken + to_microseconds({round(within_s * 1e6)}) THEN 0 ELSE 1 END AS begins "
        f"FROM ({candidates}) WHERE taken_at IS NOT NULL WINDOW taken AS (ORDER BY camera, taken_at, image_id))"
    )
    table = database.table(
        f"SELECT row, burst, phash, count(*) OVER (PARTITION BY burst) AS size FROM ({numbered}) QUALIFY size > 1 "
        "ORDER BY burst, points DESC, image_id"
    )
    ((without,),) = database.rows(f"SELECT count(*) FROM ({candidates}) WHERE taken_at IS NULL")
    notes = [f"{without:,} rows have no taken_at, and are of no burst."] if without else []
    found, table = len(table), table.filter(pc.less_equal(table["size"], LARGEST))
    if large := found - len(table):
        notes.append(
            f"{large:,} rows are more than {LARGEST:,} in a row, as scans of one time are, and are of no burst."
        )
    words, known = hash_words(table["phash"], 16)
    rows, codes = np.asarray(table["row"])[known], words[known, 0]
    leader = _leaders(np.asarray(table["burst"].cast(pa.int64()))[known], codes)
    name = f"--best-of burst --within {within_s:g}s"
    return Groups(name, drop_followers(database, rows, leader, hamming(codes, codes[leader])), notes)


def _leaders(bursts: Rows, codes: Codes) -> Rows:
    """For each picture, best first within its burst, the place of the one that is kept in its stead, or its own."""
    leader = np.arange(len(codes))
    if not len(codes):
        return leader
    ends = np.flatnonzero(np.diff(bursts)) + 1
    for start, end in pairwise([0, *ends.tolist(), len(codes)]):
        kept = [start]
        for place in range(start + 1, end):
            near = np.flatnonzero(hamming(codes[kept], codes[place]) <= DISTANCE)
            if len(near):
                leader[place] = kept[near[0]]
            else:
                kept.append(place)
    return leader
