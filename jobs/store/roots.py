"""Two libraries whose images have the same names: their rows would overwrite each other, night after night.

The id of an image of a folder or prefix is its path below it, so its row says where its library was: the uri without
the id. A row is not replaced by an image of the same id from elsewhere, unless the library has moved there: then most
of its images are there in the same version.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from artimuse_actor.errors import StoreMismatch
from artimuse_actor.fetch.file_range import FileRange
from artimuse_actor.uris import shown_uri
from jobs.manifest.id_index import IdIndex, hash_strings
from jobs.manifest.manifest import Manifest
from jobs.plan.plan import Plan
from jobs.storage.parquet import open_parquet, read_parquet
from jobs.store.layout import rows_path
from jobs.store.store import Store
from jobs.store.table_files import TableFile, TableFiles

_LOOKED_AT: Final = 100
_FILES_AT_ONCE: Final = 32
"""Scores files that take uris over in one reading of the manifest: two million rows."""
_NO_IDS: Final = np.empty((0, 2), dtype=np.uint64)
_PLACED: Final = ["image_id", "uri", "version"]
_COMMIT = re.compile(r"^(hf://datasets/[^/@]+/[^/@]+)@[0-9a-f]{40}")
"""A data set is the same in every commit."""


def refuse_other_library(store: Store, plan: Plan, manifest: Manifest) -> None:
    """Refuse a plan that would replace rows of one library by images of another.

    Raises:
        StoreMismatch: it would; the message names both libraries and one image.
    """
    if not manifest.is_listed:  # elsewhere ids are the user's own
        return
    found: Counter[tuple[str, str]] = Counter()
    example: dict[tuple[str, str], str] = {}
    for image_id, before, now in _replaced(store, plan):
        old, new = _root_of(before, image_id, manifest.id_prefix), _root_of(now, image_id, manifest.id_prefix)
        if old is not None and new is not None and old != new:
            found[old, new] += 1
            example[old, new] = image_id
    for (old, new), count in found.items():
        if _same_versions(store, manifest, old) < count:
            name = new.rstrip("/").rpartition("/")[2] or "second"
            raise StoreMismatch(
                f"{store.place.root} has images of {old}, and {count:,} other images of {new} have the same ids, such "
                f"as {example[old, new]!r}. Nothing was written. Add --id-prefix {name}/ to keep both, choose another "
                f"--out, or say --moved if these are the images of {old}."
            )


def note_of_move(store: Store, manifest: Manifest, files: TableFiles) -> str | None:
    """A sentence if images that the store has are below another folder or prefix now, in the same versions.

    It looks at a few rows of one file: a library moves as a whole.
    """
    rows = _first_rows(store, files) if manifest.is_listed else {}
    for batch in manifest.batches() if rows else ():
        here = batch.rows.filter(pc.is_in(batch.rows["image_id"], pa.array(rows, pa.string())))
        for found in here.select(_PLACED).to_pylist():
            row = rows.pop(found["image_id"])
            old, new = (_root_of(one["uri"], one["image_id"], manifest.id_prefix) for one in (row, found))
            if old is not None and new is not None and old != new and row["version"] == found["version"]:
                return f"{store.place.root}: images of {old} are in {new} now; --moved notes that in their rows."
        if not rows:
            break
    return None


def note_of_other_ids(store: Store, plan: Plan, manifest: Manifest, files: TableFiles) -> str | None:
    """A sentence if a plan adds images again that the store has under other ids, as of a folder above or below.

    It looks at a few rows of one file, as `note_of_move` does.
    """
    root = manifest.coverage.root if manifest.is_listed and manifest.coverage else None
    if root is None or not plan.new_rows:
        return None
    below = {row["uri"]: image_id for image_id, row in _first_rows(store, files).items() if row["uri"]}
    ids = {f"{manifest.id_prefix}{uri.removeprefix(f'{root}/')}": uri for uri in below if uri.startswith(f"{root}/")}
    added = pa.array([image_id for image_id, uri in ids.items() if image_id != below[uri]], pa.string())
    for shard in plan.shards if len(added) else ():
        if not shard.replaces:
            rows = read_parquet(store.place, rows_path(plan.plan_id, shard.index), ["image_id"])["image_id"]
            for image_id in rows.filter(pc.is_in(rows, added)).to_pylist()[:1]:
                uri = ids[image_id]
                return (
                    f"{store.place.root} has {uri} as {below[uri]!r}, and it is scored again as {image_id!r}. "
                    "Name the same folder with the same --id-prefix, or another --out, if each image is to be one row."
                )
    return None


def _first_rows(store: Store, files: TableFiles) -> dict[str, dict[str, Any]]:
    """A few rows of the first file that has any, by id."""
    for path in files.scores_paths:
        with open_parquet(store.place, path) as parquet:
            for rows in parquet.iter_batches(_LOOKED_AT, columns=_PLACED):
                if len(rows):
                    return {row["image_id"]: row for row in rows.to_pylist()}
    return {}


def take_over_uris(store: Store, manifest: Manifest) -> int:
    """Give rows the uris, without secrets, of the same ids in a manifest that has moved; returns how many."""
    changed, paths = 0, store.table_files().scores_paths
    for start in range(0, len(paths), _FILES_AT_ONCE):
        read = [TableFile.read(store.place, path) for path in paths[start : start + _FILES_AT_ONCE]]
        files = [(file, rows) for file in read if (rows := file.rows) is not None]
        index = IdIndex(np.concatenate([_NO_IDS, *(hash_strings(rows["image_id"]) for _, rows in files)]))
        before = np.array([uri for _, rows in files for uri in rows["uri"].to_pylist()], dtype=object)
        uris = before.copy()
        for batch in manifest.batches():
            places = index.find(hash_strings(batch.rows["image_id"]))
            here = np.flatnonzero(places >= 0)
            found = batch.rows["uri"].take(pa.array(here)).to_pylist()
            uris[places[here]] = [shown_uri(uri) if uri else None for uri in found]
        first = 0
        for file, rows in files:
            mine = slice(first, first := first + len(rows))
            if others := int((uris[mine] != before[mine]).sum()):
                changed += others
                new = pa.chunked_array([pa.array(uris[mine], pa.string())])
                column = rows.schema.get_field_index("uri")
                file.replace(rows.set_column(column, rows.schema.field(column), new), rows.schema.metadata)
    return changed


def _replaced(store: Store, plan: Plan) -> Iterator[tuple[str, str | None, str | None]]:
    """Id, uri before and uri now of each row that a plan replaces since it has another version."""
    for shard in plan.shards:
        if shard.replaces and not shard.texts_only:
            rows = read_parquet(store.place, rows_path(plan.plan_id, shard.index), ["image_id", "uri", "version"])
            stored = read_parquet(store.place, shard.replaces, ["image_id", "uri", "version"])
            stored = stored.filter(pc.is_in(stored["image_id"], rows["image_id"].combine_chunks()))
            before = {row["image_id"]: row for row in stored.to_pylist()}
            for row in rows.to_pylist():
                old = before.get(row["image_id"])
                if old and old["version"] != row["version"]:
                    yield row["image_id"], old["uri"], row["uri"]


def _root_of(uri: str | None, image_id: str, prefix: str) -> str | None:
    """The folder, prefix or data set that an image was listed below; None if its id is none of a listing."""
    name = image_id.removeprefix(prefix)
    part = FileRange.parse(uri) if uri is not None else None
    if part:  # the id begins with the name of its tar
        uri = part.uri
        tars = (name[: found.end() - 1] for found in re.finditer(r"(?i)\.tar/", name))
        name = next((tar for tar in tars if part.uri.endswith(f"/{tar}")), name)
    if uri is None or not uri.endswith(f"/{name}"):
        return None
    return _COMMIT.sub(r"\1", uri.removesuffix(f"/{name}"))


def _same_versions(store: Store, manifest: Manifest, root: str) -> int:
    """Number of rows of a library that are in the manifest with the same version."""
    ids, versions = [], []
    for batch in manifest.batches():
        ids.append(hash_strings(batch.rows["image_id"]))
        versions.append(hash_strings(batch.rows["version"]))
    index, versions_now, same = IdIndex(np.concatenate(ids)), np.concatenate(versions), 0
    for path in store.table_files().scores_paths:
        rows = read_parquet(store.place, path, ["image_id", "uri", "version"])
        rows = rows.filter(pc.starts_with(rows["uri"], f"{root}/"))
        places = index.find(hash_strings(rows["image_id"]))
        equal = (hash_strings(rows["version"]) == versions_now[places]).all(axis=1)
        same += int((equal & (places >= 0)).sum())
    return same
