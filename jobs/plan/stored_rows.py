"""The rows that a store has already, as a planner sees them: their ids and versions, and what they still lack."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.manifest.id_index import IdIndex, hash_strings
from jobs.storage.parquet import read_parquet
from jobs.storage.place import READ_THREADS, Place
from schemas.scores import ERROR, OK

NOTHING: Final = 0
TEXTS: Final = 1
RETRY: Final = 2
RETRY_TEXTS: Final = 3


@dataclass(frozen=True)
class RetryErrors:
    """The failed rows that are retried.

    Attributes:
        types: types of errors; None for all rows that are marked as retryable.
        alone: whether only these rows are scored.
        lifted: types of errors that cannot occur now, since a check that they came from is not made in this run; their
            rows count as retryable.
    """

    types: tuple[str, ...] | None = None
    alone: bool = False
    lifted: tuple[str, ...] = ()

    def chosen(self, rows: pa.Table) -> pa.ChunkedArray:
        """A boolean for each row of a scores or texts table: it is retried."""
        failed = pc.equal(rows["status"], ERROR)
        if self.types is None:
            lifted = pc.is_in(rows["error_type"], pa.array(self.lifted, pa.string()))
            return pc.and_(failed, pc.or_(pc.fill_null(rows["retryable"], False), lifted))
        return pc.and_(failed, pc.is_in(rows["error_type"], pa.array(self.types, pa.string())))


@dataclass(frozen=True)
class StoredRows:
    """Rows that a store has already, N in all.

    Attributes:
        files: the scores files.
        ids: position of each image_id among the rows of all files.
        versions: (N, 2) uint64 hashes of the rows' versions.
        file_of_row: (N,) int32, index into `files`.
        wants: (N,) uint8, `NOTHING`, `TEXTS` (a score without texts, in a store with texts), `RETRY` (an error), or
            `RETRY_TEXTS` (a score whose texts are an error).
        ahead: those of `files` whose texts file has texts of images without a score: a run died between the two.
    """

    files: tuple[str, ...]
    ids: IdIndex
    versions: NDArray[np.uint64]
    file_of_row: NDArray[np.int32]
    wants: NDArray[np.uint8]
    ahead: tuple[str, ...] = ()


def read_stored_rows(
    place: Place, files: list[str], texts_file: Callable[[str], str | None], *, texts: bool, retry: RetryErrors
) -> StoredRows:
    """Read ids, versions and outcomes of all rows.

    Args:
        place: the place of the store.
        files: the scores files.
        texts_file: gives the texts file beside a scores file, or None.
        texts: whether each image with a score is to have texts.
        retry: which failed rows are retried.

    Raises:
        BrokenFile: a file is not whole.
    """

    def keys(path: str) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint8], bool]:
        rows = read_parquet(place, path, ["image_id", "version", "status", "error_type", "retryable"])
        wants, is_ahead = np.where(retry.chosen(rows).to_numpy(), RETRY, NOTHING).astype(np.uint8), False
        if texts:
            has_score = pc.equal(rows["status"], OK).to_numpy()
            wants[has_score] = TEXTS
            if beside := texts_file(path):
                described = read_parquet(place, beside, ["image_id", "status", "error_type", "retryable"])
                own = pc.is_in(described["image_id"], rows["image_id"].combine_chunks())
                is_ahead = not pc.all(own, min_count=0).as_py()
                chosen = retry.chosen(described)
                for want, which in ((NOTHING, pc.invert(chosen)), (RETRY_TEXTS, chosen)):
                    ids = described.filter(which)["image_id"].combine_chunks()
                    wants[has_score & pc.is_in(rows["image_id"], ids).to_numpy()] = want
        return hash_strings(rows["image_id"]), hash_strings(rows["version"]), wants, is_ahead

    with ThreadPoolExecutor(READ_THREADS) as pool:
        read = list(pool.map(keys, files))
    no_hash = np.empty((0, 2), dtype=np.uint64)
    return StoredRows(
        files=tuple(files),
        ids=IdIndex(np.concatenate([no_hash, *(ids for ids, *_ in read)])),
        versions=np.concatenate([no_hash, *(versions for _, versions, *_ in read)]),
        file_of_row=np.repeat(np.arange(len(files), dtype=np.int32), [len(ids) for ids, *_ in read]),
        wants=np.concatenate([np.empty(0, dtype=np.uint8), *(wants for _, _, wants, _ in read)]),
        ahead=tuple(path for path, (*_, is_ahead) in zip(files, read, strict=True) if is_ahead),
    )
