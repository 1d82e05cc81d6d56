"""One Parquet file beside each tar, `00000.scores.parquet`, with a row for each of its images that the store has.

The column `key` is the sample's name in the tar, as WebDataset (`__key__`) and img2dataset have it; the rows are in the
order of the tar.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa

from artimuse_actor.errors import ExportError, UsageError
from artimuse_actor.uris import BUCKETS, uri_scheme
from jobs.export.kind import Exported, ExportSettings, not_ours, origin
from jobs.export.rows import StoresRows, open_rows
from jobs.manifest.tar_samples import TarSample
from jobs.storage.parquet import parquet_bytes, parquet_file
from jobs.storage.place import READ_THREADS
from jobs.storage.user_files import open_for_arrow, write_user_file
from jobs.store.database import identifier, quoted
from jobs.store.stores import Stores

SUFFIX: Final = ".scores.parquet"
_KEY: Final = pa.field("key", pa.string(), metadata={"doc": "of the sample, as in the tar"})
_RANGE: Final = quoted(r"(?is)^(.*\.tar(?:\?[^#]*)?)#bytes=([0-9]+)--?[0-9]+$")
_MEMBERS: Final = f"""
CREATE VIEW members AS
SELECT *, regexp_extract(uri, {_RANGE}, 1) AS tar, regexp_extract(uri, {_RANGE}, 2)::BIGINT AS first FROM rows
WHERE regexp_matches(uri, {_RANGE})
"""


def write(stores: Stores, settings: ExportSettings) -> Exported:
    """Write the files, beside their tars or into the folder `--out`.

    Raises:
        UsageError: the tars are where nothing can be written, and there is no `--out`.
        ExportError: no row is of a tar, or a file of such a name is somebody else's.
    """
    with open_rows(stores, settings.on_duplicate) as rows:
        rows.database.run(_MEMBERS)
        paths: dict[str, str] = {}
        tars: dict[str, str] = {}
        for tar, *member in rows.database.rows(
            "SELECT tar, any_value(image_id), any_value(uri) FROM members GROUP BY tar ORDER BY tar"
        ):
            if sample := TarSample.of(*member):
                paths[tar] = path = _path(tar, sample.tar_id, settings.out)
                if (other := tars.setdefault(path, tar)) != tar:
                    raise ExportError(
                        f"{path}: would be the file of {other} and of {tar}. Nothing was written. Export each store by "
                        "itself, with an --out of its own."
                    )
        if not paths:
            raise ExportError(f"{stores}: no image of it is a member of a tar file. Choose another --as.")
        with ThreadPoolExecutor(READ_THREADS) as pool:
            for path, is_free in zip(paths.values(), pool.map(_is_free, paths.values()), strict=True):
                if not is_free:
                    raise not_ours(path)
            for tar, is_there in zip(paths, pool.map(_is_there, paths), strict=True) if settings.out is None else ():
                if not is_there:
                    raise ExportError(f"{tar}: is not there any more. Nothing was written. Name a folder with --out.")
        about, written = origin(stores), 0
        for tar, table in _tables(rows):
            if tar not in paths:
                continue
            with write_user_file(paths[tar]) as growing, open(growing, "wb") as file:
                file.write(parquet_bytes(table.replace_schema_metadata(about)))
            written += len(table)
        rows.check_unchanged()
        others = rows.count - written
        notes = []
        if others:
            verb = "row is not of a tar file, and was" if others == 1 else "rows are not of tar files, and were"
            notes = [f"{others:,} {verb} left out."]
        shown = settings.out or os.path.dirname(next(iter(paths.values())))
        return Exported(shown, written, len(paths), (*rows.notes, *notes))


def _path(tar: str, tar_id: str, out: str | None) -> str:
    if out is not None:
        if os.path.isabs(tar_id) or ".." in tar_id.split("/"):
            raise ExportError(f"{tar_id}: is no path within a folder. Nothing was written.")
        return f"{out.rstrip('/')}/{os.path.splitext(tar_id)[0]}{SUFFIX}"
    if uri_scheme(tar) not in ("file", *BUCKETS):
        raise UsageError(f"--as sidecar: nothing can be written beside {tar}. Name a folder with --out.")
    return f"{os.path.splitext(tar)[0]}{SUFFIX}"


def _is_there(path: str) -> bool:
    try:
        open_for_arrow(path).close()
    except OSError:
        return False
    return True


def _is_free(path: str) -> bool:
    """Whether there is no such file, or one that an export wrote."""
    try:
        with open_for_arrow(path) as file:
            return b"artimuse.export" in (parquet_file(file).schema_arrow.metadata or {})
    except FileNotFoundError:
        return True
    except (pa.ArrowInvalid, OSError):
        return False


def _tables(rows: StoresRows) -> Iterator[tuple[str, pa.Table]]:
    """The rows of one tar after the other."""
    names = ", ".join(map(identifier, rows.schema.names))
    before, waiting = "", list[pa.RecordBatch]()
    for batch in rows.database.batches(f"SELECT tar, {names} FROM members ORDER BY tar, first, image_id"):
        tars = np.asarray(batch["tar"].to_pylist(), dtype=object)
        starts = [0, *(np.flatnonzero(tars[1:] != tars[:-1]) + 1).tolist(), len(batch)]
        for start, end in pairwise(starts):
            if waiting and tars[start] != before:
                yield before, _with_keys(waiting, rows.schema)
                waiting = []
            before = tars[start]
            waiting.append(batch.slice(start, end - start).drop_columns(["tar"]).cast(rows.schema))
    if waiting:
        yield before, _with_keys(waiting, rows.schema)


def _with_keys(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    table = pa.Table.from_batches(batches, schema)
    samples = map(TarSample.of, table["image_id"].to_pylist(), table["uri"].to_pylist())
    return table.add_column(0, _KEY, pa.array([sample.key if sample else None for sample in samples], pa.string()))
