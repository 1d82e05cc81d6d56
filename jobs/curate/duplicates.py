"""Keep the best-scored image of each duplicate group; the groups are written as a table.

Exact duplicates have the same SHA-256, near-duplicates perceptual hashes that differ in few bits (`near_duplicates`).
Every candidate's hash is in memory meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from artimuse_actor.errors import UsageError
from jobs.curate.candidates import CHOSEN_SCORES
from jobs.curate.equal_hashes import Rows, first_of_equals, hash_words
from jobs.curate.near_duplicates import MAX_DISTANCE, Followers, default_distance, follow_best, hamming
from jobs.store.database import ROW, Database, identifier
from schemas.curation import GROUPS

Likeness = Literal["exact", "near"]

_DIGITS: Final = {"exact": ("sha256", 64), "near": ("phash", 16)}
_WORDS: Final = {"exact": 2, "near": 1}


@dataclass(frozen=True)
class Dedupe:
    """The rule by which two images are duplicates.

    Attributes:
        likeness: `exact` or `near`.
        distance: bits in which the perceptual hashes of near-duplicates may differ; None goes by how many there are.
    """

    likeness: Likeness
    distance: int | None = None


def read_dedupe(likeness: str | None, distance: int | None) -> Dedupe | None:
    """The options `--dedupe` and `--distance`. Raises UsageError."""
    if distance is not None and likeness != "near":
        raise UsageError("--distance is about near-duplicates. Add --dedupe near.")
    if likeness is None:
        return None
    if likeness not in get_args(Likeness):
        raise UsageError(f"--dedupe takes exact or near, not {likeness!r}.")
    if distance is not None and not 0 <= distance <= MAX_DISTANCE:
        raise UsageError(
            f"--distance takes a whole number of bits from 0 to {MAX_DISTANCE}, not {distance}: beyond, hashes of "
            "different pictures meet."
        )
    return Dedupe(likeness, distance)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Groups:
    """The groups of duplicates.

    Attributes:
        name: of the step, with the distance.
        table: of schema `GROUPS`.
        notes: messages for the user.
    """

    name: str
    table: pa.Table
    notes: list[str]


def drop_duplicates(database: Database, dedupe: Dedupe) -> Groups:
    """Keep the best candidate of each group; ties are broken by image_id, in byte order."""
    column, digits = _DIGITS[dedupe.likeness]
    best_first = f"SELECT chosen.row, {column} FROM {CHOSEN_SCORES} ORDER BY chosen.points DESC, image_id"
    words, rows, without = [np.empty((0, _WORDS[dedupe.likeness]), np.uint64)], [np.empty(0, np.int64)], 0
    for batch in database.batches(best_first):
        batch_words, known = hash_words(pa.chunked_array([batch[column]]), digits)
        words.append(batch_words[known])
        rows.append(np.asarray(batch["row"])[known])
        without += int((~known).sum())
    hashes, ranked = np.concatenate(words), np.concatenate(rows)
    words.clear()
    rows.clear()
    name = f"--dedupe {dedupe.likeness}"
    if dedupe.likeness == "near":
        distance = default_distance(len(ranked)) if dedupe.distance is None else dedupe.distance
        followers, name = follow_best(hashes[:, 0], distance), f"{name} --distance {distance}"
    else:
        followers = Followers(first_of_equals(hashes), 0)
    leader = followers.leader
    bits = hamming(hashes[:, 0], hashes[leader, 0]) if dedupe.likeness == "near" else np.zeros(len(leader))
    table = drop_followers(database, ranked, leader, bits)
    return Groups(name, table, _notes(without, column, followers.left_out))


def drop_followers(database: Database, rows: Rows, leader: Rows, bits: NDArray[Any]) -> pa.Table:
    """Drop candidates in favour of others.

    Args:
        database: with the tables `chosen` and `scores`.
        rows: (N,) rows of `chosen`, a better one before those that follow it.
        leader: (N,) the place among them of the one that is kept instead, or a row's own.
        bits: (N,) in which their hashes differ.

    Returns:
        Table of schema `GROUPS`.
    """
    rank = np.flatnonzero(leader != np.arange(len(rows)))
    dropped = {"row": rows[rank], "best": rows[leader[rank]], "rank": rank, "distance": bits[rank].astype(np.int8)}
    database.add_rows("dropped", pa.table(dropped))
    table = database.table(
        "SELECT b.image_id, d.image_id, distance, best.points, mine.points FROM dropped "
        "JOIN chosen AS best ON best = best.row JOIN chosen AS mine ON dropped.row = mine.row "
        f"JOIN scores AS b ON best.held = b.{identifier(ROW)} JOIN scores AS d ON mine.held = d.{identifier(ROW)} "
        "ORDER BY best.points DESC, b.image_id, rank"
    )
    database.run("CREATE OR REPLACE TABLE chosen AS SELECT * FROM chosen ANTI JOIN dropped USING (row)")
    columns = [column.cast(field.type) for column, field in zip(table.columns, GROUPS, strict=True)]
    return pa.table(columns, schema=GROUPS)


def _notes(without: int, column: str, left_out: int) -> list[str]:
    notes = [f"{without:,} rows have no {column}, and are like no other."] if without else []
    if left_out:
        notes.append(
            f"{left_out:,} comparisons of hashes that have many bits in common with very many others were left out; "
            "some near-duplicates among those may stay. A smaller --distance, or a filter before it, makes it exact."
        )
    return notes
