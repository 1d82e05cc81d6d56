"""Scores copied to images with the same bytes as a scored one: pictures that were moved, renamed or doubled.

The planner writes the SHA-256 of every scored image of the store to a file. A load task that finds an image's digest
there copies the row from the table, and neither decodes the image nor sends it to a model. If that row is gone by then,
the image is scored like any other.

    digests     records of 20 bytes, sorted: 16 of the digest (the probability of a collision is 10^-24 at 10^7
                images), and the index of the plan's store file with its row
    blocks      the digest of every 4,096th record: a load task reads this, and then only the blocks it needs
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.storage.parquet import read_parquet
from jobs.storage.place import READ_THREADS, Place
from jobs.store.layout import known_path, texts_path
from schemas.scores import OK

_DIGEST_BYTES: Final = 16
_DIGEST: Final = f"S{_DIGEST_BYTES}"
_RECORD: Final = np.dtype([("digest", _DIGEST), ("file", "<i4")])
_BLOCK_ROWS: Final = 4096
_CACHED_BLOCKS: Final = 256  # 20 MB a load process; all blocks of a store of a million rows


def write_known_images(place: Place, plan_id: str, tables: Sequence[tuple[str, str | None]], *, texts: bool) -> None:
    """Write the digests of all images with a score, or with a score and texts, into the plan's folder.

    Args:
        place: the place of the store.
        plan_id: id of the plan.
        tables: each scores file, with the texts file beside it if there is one.
        texts: whether to leave out images without texts.
    """

    def digests(files: tuple[str, str | None]) -> NDArray[np.bytes_]:
        scores, beside = files
        rows = read_parquet(place, scores, ["image_id", "status", "sha256"])
        usable = pc.and_(pc.equal(rows["status"], OK), pc.is_valid(rows["sha256"]))
        if texts:
            texts_rows = read_parquet(place, beside, ["image_id", "status"]) if beside else rows.slice(0, 0)
            described = texts_rows.filter(pc.equal(texts_rows["status"], OK))["image_id"].combine_chunks()
            usable = pc.and_(usable, pc.is_in(rows["image_id"], described))
        values = rows["sha256"].filter(usable).to_pylist()
        return np.array([bytes.fromhex(value)[:_DIGEST_BYTES] for value in values], dtype=_DIGEST)

    with ThreadPoolExecutor(READ_THREADS) as pool:
        read = list(pool.map(digests, tables))
    records = np.empty(sum(map(len, read)), dtype=_RECORD)
    records["digest"] = np.concatenate([np.empty(0, dtype=_DIGEST), *read])
    records["file"] = np.repeat(np.arange(len(read)), [len(part) for part in read])
    records = records[np.argsort(records["digest"], kind="stable")]
    place.write(known_path(plan_id, "digests"), records.tobytes())
    place.write(known_path(plan_id, "blocks"), records["digest"][::_BLOCK_ROWS].tobytes())  # last: it is read first


@dataclass(frozen=True)
class KnownRows:
    """The rows of a store that can be copied to images with the same bytes.

    Attributes:
        place: the place of the store.
        plan_id: id of the plan.
        files: scores files, in the order of `write_known_images`.
        columns: columns of the scores table that are copied.
        text_columns: columns of the texts table that are copied; empty without texts.
    """

    place: Place
    plan_id: str
    files: tuple[str, ...]
    columns: tuple[str, ...]
    text_columns: tuple[str, ...]

    def find(self, sha256: str) -> dict[str, Any] | None:
        """The columns to copy, `copied_from`, and the runs that made them; None if there is no such row any more."""
        file = self._file_of(np.array(bytes.fromhex(sha256)[:_DIGEST_BYTES], dtype=_DIGEST))
        if file is None:
            return None
        path = self.files[file]
        row = _rows(self.place, self.plan_id, path, ("image_id", "run_id", *self.columns)).get(sha256)
        if row is None:
            return None
        copied = {"copied_from": row.pop("image_id"), "scored_by": row.pop("run_id"), **row}
        if not self.text_columns:
            return copied
        texts = _rows(self.place, self.plan_id, texts_path(path), ("run_id", *self.text_columns)).get(sha256)
        return None if texts is None else {**copied, "described_by": texts.pop("run_id"), **texts}

    def _file_of(self, digest: NDArray[np.bytes_]) -> int | None:
        """The index of the file with a row of this digest."""
        block = int(np.searchsorted(_blocks(self.place, self.plan_id), digest, side="right")) - 1
        if block < 0:
            return None
        records = _block(self.place, self.plan_id, block)
        position = int(np.searchsorted(records["digest"], digest))
        is_known = position < len(records) and records["digest"][position] == digest
        file = int(records["file"][position]) if is_known else -1
        return file if 0 <= file < len(self.files) else None  # of another number, the record is damaged

    def digest(self, path: str, image_id: str) -> str | None:
        """The SHA-256 of the bytes that a row of a scores file was made of; None if the file does not say."""
        return _digests(self.place, self.plan_id, path).get(image_id)


@lru_cache(maxsize=1)  # rows of a unit are of one file
def _digests(place: Place, plan_id: str, path: str) -> dict[str, str]:  # noqa: ARG001 - of the key
    try:
        rows = read_parquet(place, path, ["image_id", "sha256"])
    except FileNotFoundError:
        return {}
    return dict(zip(rows["image_id"].to_pylist(), rows["sha256"].to_pylist(), strict=True))


@lru_cache(maxsize=1)  # a process works on one plan at a time
def _blocks(place: Place, plan_id: str) -> NDArray[np.bytes_]:
    """The first digest of each block; none if the planner wrote none: then every image is scored."""
    try:
        data = place.read(known_path(plan_id, "blocks"))
    except FileNotFoundError:
        data = b""
    return np.frombuffer(data, dtype=_DIGEST, count=len(data) // _DIGEST_BYTES)


@lru_cache(maxsize=_CACHED_BLOCKS)
def _block(place: Place, plan_id: str, block: int) -> NDArray[np.void]:
    """Records of a block; fewer if the file is damaged."""
    size_bytes = _BLOCK_ROWS * _RECORD.itemsize
    try:
        data = place.read_range(known_path(plan_id, "digests"), block * size_bytes, size_bytes)
    except FileNotFoundError:
        data = b""
    return np.frombuffer(data, dtype=_RECORD, count=len(data) // _RECORD.itemsize)


class _FileRows:
    """The ok rows of a file of scores or texts, by digest."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table.drop_columns(["sha256"])
        self._places = {sha256: place for place, sha256 in enumerate(table["sha256"].to_pylist())}

    def get(self, sha256: str) -> dict[str, Any] | None:
        place = self._places.get(sha256)
        return None if place is None else dict(self._table.slice(place, 1).to_pylist()[0])


@lru_cache(maxsize=2)  # images of a moved folder come in the order of their old rows, so from one file at a time
def _rows(place: Place, plan_id: str, path: str, columns: tuple[str, ...]) -> _FileRows:  # noqa: ARG001 - of the key
    wanted = list(dict.fromkeys(("sha256", "status", *columns)))
    try:
        table = read_parquet(place, path, wanted)
    except FileNotFoundError:
        return _FileRows(pa.table({"sha256": pa.array([], pa.string())}))
    ok = table.filter(pc.equal(table["status"], OK))
    return _FileRows(ok.select([name for name in wanted if name != "status" or name in columns]))
