"""Keep the best-scored image of each duplicate group; the groups are written as a table.

Exact duplicates have the same SHA-256, near-duplicates perceptual hashes that differ in few bits (`near_duplicates`).
Every candidate's hash, score and id are in memory meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from artimuse_actor.errors import UsageError
from jobs.curate.candidates import Candidates
from jobs.curate.equal_hashes import first_of_equals, hash_words
from jobs.curate.near_duplicates import MAX_DISTANCE, Followers, default_distance, follow_best, hamming
from schemas.curation import GROUPS

Likeness = Literal["exact", "near"]

_DIGITS: Final = {"exact": ("sha256", 64), "near": ("phash", 16)}


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


def drop_duplicates(candidates: Candidates, dedupe: Dedupe, score_column: str) -> Groups:
    """Keep the best candidate of each group; ties are broken by image_id, in byte order."""
    column, digits = _DIGITS[dedupe.likeness]
    ids, scores, words, known = [], [], [], []
    for _, rows in candidates.scan(["image_id", score_column, column]):
        ids += rows["image_id"].chunks
        scores.append(rows[score_column].to_numpy())
        batch_words, batch_known = hash_words(rows[column], digits)
        words.append(batch_words)
        known.append(batch_known)
    if not ids:
        return Groups(f"--dedupe {dedupe.likeness}", GROUPS.empty_table(), [])
    table = pa.table({"score": np.concatenate(scores), "image_id": pa.chunked_array(ids, pa.string())})
    ids.clear()
    scores.clear()
    has_hash = np.concatenate(known)
    best_first = np.asarray(pc.sort_indices(table, [("score", "descending"), ("image_id", "ascending")]))
    ranked = best_first[has_hash[best_first]]
    del best_first
    all_words = np.concatenate(words)
    words.clear()
    hashes = all_words[ranked]
    del all_words
    name = f"--dedupe {dedupe.likeness}"
    if dedupe.likeness == "near":
        distance = default_distance(len(ranked)) if dedupe.distance is None else dedupe.distance
        followers, name = follow_best(hashes[:, 0], distance), f"{name} --distance {distance}"
    else:
        followers = Followers(first_of_equals(hashes), 0)
    rank = np.flatnonzero(followers.leader != np.arange(len(ranked)))
    rank = rank[np.argsort(followers.leader[rank], kind="stable")]
    leader = followers.leader[rank]
    bits = hamming(hashes[rank, 0], hashes[leader, 0]) if dedupe.likeness == "near" else np.zeros(len(rank))
    left, kept = table.take(ranked[rank]), table.take(ranked[leader])
    columns = [kept["image_id"], left["image_id"], pa.array(bits.astype(np.int8)), kept["score"], left["score"]]
    stays = np.ones(len(table), dtype=bool)
    stays[ranked[rank]] = False
    chosen = candidates.chosen
    chosen.keep(np.concatenate([chosen.places(batch) for batch in range(len(chosen.sizes))])[stays])
    return Groups(name, pa.table(columns, schema=GROUPS), _notes(int((~has_hash).sum()), column, followers.left_out))


def _notes(without: int, column: str, left_out: int) -> list[str]:
    notes = [f"{without:,} rows have no {column}, and are like no other."] if without else []
    if left_out:
        notes.append(
            f"{left_out:,} comparisons of hashes that have many bits in common with very many others were left out; "
            "some near-duplicates among those may stay. A smaller --distance, or a filter before it, makes it exact."
        )
    return notes
