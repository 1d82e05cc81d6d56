"""Manifests in memory: the images that a folder, a glob or a benchmark's `test.json` lists."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from artimuse_actor.errors import ManifestError
from artimuse_actor.uris import in_bucket
from jobs.manifest.listing import ListedFile, local_file
from jobs.manifest.manifest import ROWS, Coverage, ManifestBatch, ManifestOptions, absolute_base
from jobs.storage.user_files import BATCH_ROWS, is_unicode, open_source
from schemas.manifest import MANIFEST

_MAX_POINTS: Final = 10**15


@dataclass
class ListedManifest:
    """A manifest in memory: the images that a folder, a glob or a `test.json` lists."""

    source: str
    rows: pa.Table
    notes: list[str]
    coverage: Coverage | None = None
    is_listed = True
    id_prefix = ""

    def columns(self) -> pa.Schema:
        """See `Manifest`."""
        return MANIFEST

    def image_column(self) -> str | None:
        """See `Manifest`."""
        return None

    def batches(self, own: Sequence[str] = (), *, keys: bool = True) -> Iterator[ManifestBatch]:  # noqa: ARG002
        """See `Manifest`; `keys` makes no difference here, since the rows are in memory."""
        for start in range(0, self.rows.num_rows, BATCH_ROWS):
            rows = self.rows.slice(start, BATCH_ROWS)
            yield ManifestBatch(rows, self.source, start, rows.select(list(own)))

    def identity(self) -> str:
        """See `Manifest`."""
        digest = hashlib.sha256()
        for batch in self.batches():
            for name in ("image_id", "uri", "version"):
                digest.update(json.dumps(batch.rows[name].to_pylist()).encode())
        return digest.hexdigest()


def file_rows(files: list[ListedFile]) -> pa.Table:
    """Listed files as rows of schema `ROWS`."""
    return listed_rows(
        [f.image_id for f in files], [f.path for f in files], [f.version for f in files], [None] * len(files)
    )


def listed_rows(
    ids: list[str], uris: list[str], versions: list[str | None], gt_scores: Iterable[float | None]
) -> pa.Table:
    """Rows of schema `ROWS`."""
    known = {"image_id": ids, "uri": uris, "version": versions, "gt_score": gt_scores}
    columns = [
        pa.array(known[field.name], field.type) if field.name in known else pa.nulls(len(ids), field.type)
        for field in ROWS
    ]
    return pa.table(columns, schema=ROWS)


def read_json_list(source: str, entries_are: str) -> list[Any]:
    """A file with a JSON list.

    Args:
        source: path, or the uri of an object.
        entries_are: what the list should have, for messages.

    Raises:
        ManifestError: it cannot be read, or is something else.
    """
    try:
        with open_source(source) as file:
            entries = json.load(file)
    except FileNotFoundError:
        raise ManifestError(f"{source}: there is no such file.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(
            f"{source}: is not valid JSON: {error}. JSON lines, an object each, are called something.jsonl."
        ) from error
    if not isinstance(entries, list):
        raise ManifestError(f"{source}: is not a list of {entries_are}.")
    return entries


def read_test_json(source: str, options: ManifestOptions) -> ListedManifest:
    """A benchmark's list of images and ground truth. Raises ManifestError."""
    entries = read_json_list(source, '{"image": …, "gt_score": …}')
    base = absolute_base(options.images) if options.images else _images_beside(source)
    rows: dict[str, tuple[str, str | None, float | None]] = {}
    for number, entry in enumerate(entries):
        image = entry.get("image") if isinstance(entry, dict) else None
        if not isinstance(image, str) or not image or not is_unicode(image):
            raise ManifestError(f"{source}, entry {number}: has no `image` that names a file. No image was read.")
        truth = entry.get("gt_score")
        if truth is not None and (isinstance(truth, bool) or not isinstance(truth, int | float)):
            raise ManifestError(f"{source}, entry {number}: `gt_score` is {truth!r}, not a number. No image was read.")
        if isinstance(truth, int) and abs(truth) > _MAX_POINTS:
            raise ManifestError(f"{source}, entry {number}: `gt_score` is beyond any scale. No image was read.")
        uri = f"{base.rstrip('/')}/{image}"
        version = None if in_bucket(uri) else local_file(uri, base).version
        rows.setdefault(image, (uri, version, truth))
    doubled = len(entries) - len(rows)
    notes = [f"{doubled} of {len(entries)} entries name an image again; each image is scored once."] if doubled else []
    uris, versions, truths = zip(*rows.values(), strict=True) if rows else ((), (), ())
    return ListedManifest(source, listed_rows(list(rows), list(uris), list(versions), truths), notes, Coverage(None))


def _images_beside(source: str) -> str:
    folder = os.path.dirname(source) if in_bucket(source) else os.path.dirname(os.path.abspath(source))
    beside = f"{folder}/images"
    return beside if in_bucket(source) or os.path.isdir(beside) else folder
