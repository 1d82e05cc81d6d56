"""Ground truth joined with the scores of a store, every row accounted for.

A row of ground truth names an image in its own way: by the id that the store has, by its uri, by a path within a folder
that lies elsewhere now, or by a file name. Each row counts, also if another one names the same image (ISTA-10K has 970
rows for 957 images), as in the published evaluations. A name that several images of the store share is ambiguous, and
none of them is taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.evaluate.truth_columns import NO_TRUTHS
from jobs.evaluate.truth_digest import TruthDigest
from jobs.manifest.columns import as_ids
from jobs.manifest.id_index import IdIndex, hash_strings
from jobs.store.counts import count_values
from schemas.scores import OK

MATCHES: Final = ("id", "uri", "path", "name")
"""Ways in which a row of ground truth may name an image: see `match_column`."""

_MOST_PARTS: Final = 1000  # that a regular expression repeats
_MISSING_TYPE: Final = "missing"  # an error row whose image was not there
SCORED, FAILED, MISSING, AMBIGUOUS = range(4)


@dataclass
class JoinCounts:
    """Both sides of a join: `expected` = `scored` + `failed` + `missing` + `ambiguous`.

    Attributes:
        expected: rows of ground truth with a number.
        scored: of these, rows whose image has a score.
        failed: rows whose image could not be read.
        missing: rows whose image is in no row of the store, or was not there when it was to be scored.
        ambiguous: rows whose name several images of the store share.
        without_truth: rows of ground truth without a number; not expected.
        doubled: rows of ground truth that name an image again; each counts.
        extra: images of the store that no row of ground truth names.
        errors: error type → rows, of the failed ones.
        examples: some names of rows without a score.
        matched_by: one of `MATCHES`.
    """

    expected: int = 0
    scored: int = 0
    failed: int = 0
    missing: int = 0
    ambiguous: int = 0
    without_truth: int = 0
    doubled: int = 0
    extra: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    matched_by: str = "id"

    @property
    def is_complete(self) -> bool:
        """True if every expected row has a score."""
        return self.scored == self.expected


@dataclass(frozen=True)
class TruthKeys:
    """Names of images in the rows of ground truth.

    Attributes:
        names: (M,) strings.
        hashes: (M, 2) of them.
    """

    names: pa.ChunkedArray
    hashes: NDArray[np.uint64]

    @classmethod
    def of(cls, names: pa.ChunkedArray) -> TruthKeys:
        """Clean and hash names."""
        names = clean_names(names)
        return cls(names, hash_strings(names))


def clean_names(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """`./a/b.jpg` names the same file as `a/b.jpg`, and a url the same image as the id that is made of it."""
    if pc.any(pc.starts_with(names, "./")).as_py():
        names = pc.replace_substring_regex(names, r"^(\./)+", "")
    return _urls_as_ids(names)


def _urls_as_ids(names: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([as_ids(chunk).cast(names.type) for chunk in names.chunks], names.type)


class ScoreIndex:
    """The scores of a store, found by the names that ground truth uses.

    Attributes:
        match: one of `MATCHES`.
    """

    def __init__(self, batches: Iterable[pa.Table], score_column: str, match: str, depths: Iterable[int]) -> None:
        """Index a store's rows.

        Args:
            batches: of the scores table: image_id, uri, status, error_type and the score.
            score_column: which score.
            match: one of `MATCHES`.
            depths: for `path`, numbers of components that names have.
        """
        self.match = match
        names: dict[int, list[NDArray[np.uint64]]] = {depth: [] for depth in (depths if match == "path" else [0])}
        scores, outcomes, errors = [np.empty(0)], [np.empty(0, dtype=np.uint8)], []
        for batch in batches:
            for depth, hashes in names.items():
                hashes.append(hash_strings(match_column(batch, match, depth)))
            scores.append(pc.cast(batch[score_column], pa.float64()).to_numpy())
            ok = pc.equal(batch["status"], OK).to_numpy() & ~np.isnan(scores[-1])  # as numpy and polars write null
            gone = pc.fill_null(pc.equal(batch["error_type"], _MISSING_TYPE), False).to_numpy()
            outcomes.append(np.select([ok, gone], [SCORED, MISSING], FAILED).astype(np.uint8))
            errors.append(batch["error_type"].dictionary_encode())
        self._scores, self._outcomes = np.concatenate(scores), np.concatenate(outcomes)
        self._errors = pa.chunked_array(errors, pa.dictionary(pa.int32(), pa.string()))
        self._indexes = {depth: IdIndex(np.concatenate([_NO_NAMES, *hashes])) for depth, hashes in names.items()}
        self._doubled = {depth: index.doubled() for depth, index in self._indexes.items()}
        self._named = np.zeros(len(self._scores), dtype=np.bool_)

    def find(self, keys: TruthKeys) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """For each of M names the row of the store, or -1, and the outcome of the search: (M,) each."""
        places = np.full(len(keys.hashes), -1, dtype=np.int64)
        outcomes = np.full(len(keys.hashes), MISSING, dtype=np.uint8)
        depths = path_depths(keys.names) if self.match == "path" else np.zeros(len(places), dtype=np.int64)
        hashes = hash_strings(_last_parts(keys.names, 1)) if self.match == "name" else keys.hashes
        for depth, index in self._indexes.items():
            chosen = np.flatnonzero(depths == depth)
            found = index.find(hashes[chosen])
            hit = found >= 0
            places[chosen[hit]] = found[hit]
            self._named[found[hit]] = True
            outcomes[chosen[hit]] = np.where(self._doubled[depth][found[hit]], AMBIGUOUS, self._outcomes[found[hit]])
        return places, outcomes

    def unnamed(self) -> int:
        """Number of rows of the store that no name so far has matched."""
        named = self._named.copy()
        for index in self._indexes.values():
            named |= index.spread(self._named)
        return int((~named).sum())

    def scores(self, places: NDArray[np.int64], outcomes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(M,) float64: NaN where a row has no score."""
        found = np.full(len(places), np.nan)
        scored = outcomes == SCORED
        found[scored] = self._scores[places[scored]]
        return found

    def error_types(self, places: NDArray[np.int64]) -> Counter[str]:
        """Error type → rows, of these rows."""
        return count_values(self._errors.take(pa.array(places)))


_NO_NAMES: Final = np.empty((0, 2), dtype=np.uint64)


def match_column(batch: pa.Table, match: str, depth: int) -> pa.ChunkedArray:
    """Key of each image of the store: its id, its uri, or the last parts of its uri (else of its id)."""
    if match in ("id", "uri"):
        return _urls_as_ids(batch["image_id" if match == "id" else "uri"])
    paths = pc.coalesce(batch["uri"], batch["image_id"])
    return _last_parts(paths, depth if match == "path" else 1)


def path_depths(keys: pa.ChunkedArray) -> NDArray[np.int64]:
    """Number of path components of each name: (M,)."""
    depths: NDArray[np.int64] = pc.count_substring(keys, "/").to_numpy().astype(np.int64) + 1
    return depths


def _last_parts(paths: pa.ChunkedArray, count: int) -> pa.ChunkedArray:
    if count > _MOST_PARTS:
        return pa.chunked_array([["/".join(path.split("/")[-count:]) for path in paths.to_pylist()]], pa.string())
    pattern = rf"(?s)(?:^|/)(?P<last>(?:[^/]+/){{{count - 1}}}[^/]+)$"
    return pc.coalesce(pc.struct_field(pc.extract_regex(paths, pattern), 0), paths)


@dataclass(frozen=True)
class Pairs:
    """Rows of ground truth with their scores, in the order of ground truth.

    Attributes:
        keys: (M,) names of the images in the ground truth.
        truths: (M,) float64.
        scores: for each index, (M,) float64; NaN where there is none.
        places: for each index, (M,) int64: the row of the store in the order of its batches, or -1.
        groups: (M,) string, or None.
        clusters: (M,) string of a column of clusters, or None.
        counts: for each index, both sides of its join.
        truth_sha256: content hash of all rows of ground truth, see `TruthDigest`.
    """

    keys: pa.ChunkedArray
    truths: NDArray[np.float64]
    scores: tuple[NDArray[np.float64], ...]
    places: tuple[NDArray[np.int64], ...]
    groups: pa.ChunkedArray | None
    clusters: pa.ChunkedArray | None
    counts: tuple[JoinCounts, ...]
    truth_sha256: str

    def of(self, index: int) -> Pairs:
        """The pairs of one of the indexes."""
        return replace(self, scores=(self.scores[index],), places=(self.places[index],), counts=(self.counts[index],))


def pair(truths: Iterable[pa.Table], indexes: tuple[ScoreIndex, ...]) -> Pairs:
    """Join ground truth, in batches of `key`, `truth` and perhaps `group` and `cluster`, with sets of scores."""
    counts = tuple(JoinCounts(matched_by=index.match) for index in indexes)
    kept: list[pa.Table] = []
    scores: list[list[NDArray[np.float64]]] = [[] for _ in indexes]
    rows: list[list[NDArray[np.int64]]] = [[] for _ in indexes]
    unknown: list[NDArray[np.uint64]] = [_NO_NAMES]
    digest = TruthDigest()
    for batch in truths:
        digest.update(batch)
        has_truth = pc.invert(pc.or_kleene(pc.is_null(batch["truth"]), pc.is_nan(pc.fill_null(batch["truth"], np.nan))))
        expected = batch.filter(has_truth)
        kept.append(expected)
        keys = TruthKeys.of(expected["key"])
        for index, count, found_scores, found_rows in zip(indexes, counts, scores, rows, strict=True):
            at, outcomes = index.find(keys)
            found_rows.append(at)
            found_scores.append(index.scores(at, outcomes))
            count.expected += len(expected)
            count.without_truth += len(batch) - len(expected)
            count.scored += int((outcomes == SCORED).sum())
            count.failed += int((outcomes == FAILED).sum())
            count.missing += int((outcomes == MISSING).sum())
            count.ambiguous += int((outcomes == AMBIGUOUS).sum())
            count.errors.update(index.error_types(at[outcomes == FAILED]))
            if index is indexes[0]:
                unknown.append(keys.hashes[at < 0])
            without = np.flatnonzero(outcomes != SCORED)[: 5 - len(count.examples)]
            count.examples += expected["key"].take(pa.array(without)).to_pylist()
    places = tuple(np.concatenate([np.empty(0, dtype=np.int64), *found]) for found in rows)
    images = places[0][places[0] >= 0]
    doubled = int(
        len(images) - np.count_nonzero(np.bincount(images)) + IdIndex(np.concatenate(unknown)).repeated().sum()
    )
    for index, count in zip(indexes, counts, strict=True):
        count.doubled = doubled
        count.extra = index.unnamed()
    table = pa.concat_tables(kept) if kept else NO_TRUTHS
    return Pairs(
        keys=table["key"],
        truths=table["truth"].to_numpy(),
        scores=tuple(np.concatenate([np.empty(0), *found]) for found in scores),
        places=places,
        groups=table["group"] if "group" in table.column_names else None,
        clusters=table["cluster"] if "cluster" in table.column_names else None,
        counts=counts,
        truth_sha256=digest.hexdigest(),
    )


def choose_match(names: pa.ChunkedArray, make: Callable[[str], ScoreIndex]) -> ScoreIndex:
    """The match that finds most of a sample of ground truth; of equals the first of `MATCHES`.

    The first that finds more than half is taken at once.
    """
    keys = TruthKeys.of(names)
    best: ScoreIndex | None = None
    most = -1
    for match in MATCHES:
        index = make(match)
        found = int((index.find(keys)[0] >= 0).sum())
        if found > most:
            best, most = index, found
        if 2 * found > len(names):
            break
    assert best is not None
    return best
