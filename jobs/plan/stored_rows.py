"""The rows that a store holds already, as a planner sees them: who they are, and what they still want."""

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


@dataclass(frozen=True)
class RetryErrors:
    """Which failed rows are tried again.

    Attributes:
        types: types of errors; None for all rows that are marked as retryable.
        alone: whether nothing else is done.
    """

    types: tuple[str, ...] | None = None
    alone: bool = False

    def chosen(self, rows: pa.Table) -> pa.ChunkedArray:
        """Which rows of a scores or texts table are tried again: boolean."""
        failed = pc.equal(rows["status"], ERROR)
        if self.types is None:
            return pc.and_(failed, pc.fill_null(rows["retryable"], False))
        return pc.and_(failed, pc.is_in(rows["error_type"], pa.array(self.types, pa.string())))


@dataclass(frozen=True)
class StoredRows:
    """What a store holds already.

    Attributes:
        files: the scores files.
        ids: where each image_id stands among the rows of all files.
        versions: (N, 2) uint64 hashes of the rows' versions.
        file_of_row: (N,) int32, index into `files`.
        wants: (N,) uint8, `NOTHING`, `TEXTS` (it has a score but no texts, in a store of texts) or `RETRY`.
    """

    files: tuple[str, ...]
    ids: IdIndex
    versions: NDArray[np.uint64]
    file_of_row: NDArray[np.int32]
    wants: NDArray[np.uint8]


def read_stored_rows(
    place: Place, files: list[str], texts_file: Callable[[str], str | None], *, texts: bool, retry: RetryErrors
) -> StoredRows:
    """Read the keys of all rows.

    Args:
        place: of the store.
        files: the scores files.
        texts_file: the texts file beside a scores file, if it is there.
        texts: whether each image with a score wants texts.
        retry: which failed rows want to be tried again.

    Raises:
        BrokenFile: a file is not whole.
    """

    def keys(path: str) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint8]]:
        rows = read_parquet(place, path, ["image_id", "version", "status", "error_type", "retryable"])
        wants = np.where(retry.chosen(rows).to_numpy(), RETRY, NOTHING).astype(np.uint8)
        if texts:
            untold = pc.equal(rows["status"], OK)
            if beside := texts_file(path):
                told = read_parquet(place, beside, ["image_id", "status", "error_type", "retryable"])
                told = told.filter(pc.invert(retry.chosen(told)))
                untold = pc.and_(untold, pc.invert(pc.is_in(rows["image_id"], told["image_id"].combine_chunks())))
            wants[untold.to_numpy()] = TEXTS
        return hash_strings(rows["image_id"]), hash_strings(rows["version"]), wants

    with ThreadPoolExecutor(READ_THREADS) as pool:
        read = list(pool.map(keys, files))
    no_hash = np.empty((0, 2), dtype=np.uint64)
    return StoredRows(
        files=tuple(files),
        ids=IdIndex(np.concatenate([no_hash, *(ids for ids, _, _ in read)])),
        versions=np.concatenate([no_hash, *(versions for _, versions, _ in read)]),
        file_of_row=np.repeat(np.arange(len(files), dtype=np.int32), [len(ids) for ids, _, _ in read]),
        wants=np.concatenate([np.empty(0, dtype=np.uint8), *(wants for _, _, wants in read)]),
    )
