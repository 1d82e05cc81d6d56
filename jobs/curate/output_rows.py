"""The chosen rows as files: which columns they have, and the images beside them if those are wanted.

From a manifest all of its own columns are carried through, and the scores are added. Without one the columns are those
of the scores table that are about the image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

import pyarrow as pa

from artimuse_actor.fetch.options import FetchOptions
from jobs.curate.candidates import OWN, Candidates
from jobs.curate.funnel import Funnel
from jobs.curate.output_images import CopiedImages, TarFiles, fetch_scored
from jobs.curate.output_place import Workshop
from jobs.curate.row_writers import open_row_file
from jobs.manifest.columns import is_image_type
from jobs.storage.hub_features import HUGGING_FACE, with_features
from jobs.store.store import Store
from schemas.curation import CURATION_KEY
from schemas.scores import IMAGE, KEYS

SOURCE_URI: Final = "source_uri"
"""Column with the original uri of a copied image; its `uri` is that of the copy."""

_ABOUT_IMAGES: Final = ["uri", "sha256", "format"]
_UNREAD: Final = "images gone or changed since"


def write_chosen(candidates: Candidates, store: Store, aside: Workshop, fetch: FetchOptions, funnel: Funnel) -> None:
    """Write the chosen rows, in the order of the manifest or the store, and their images if they are wanted.

    Raises:
        CurationError: none of their images is there any more.
        UsageError: a column cannot be written in the wanted kind of file.
    """
    target = aside.target
    columns = _columns(candidates, store, funnel)
    if target.copy or target.kind == "webdataset":
        # The images have files of their own from here on.
        columns = {
            name: source for name, source in columns.items() if not is_image_type(_field(candidates, source).type)
        }
        if target.copy:
            columns |= {"uri": "uri", SOURCE_URI: "uri"}
    schema = _file_schema(candidates, columns)
    if target.kind == "webdataset":
        tars = TarFiles(aside)
        unread = 0
        for table, formats, images in _with_images(candidates, columns, schema, fetch):
            unread += int((~tars.add(table, formats, images)).sum())
        tars.close()
        funnel.remove(_UNREAD, unread)
        return
    out = open_row_file(target.kind, aside.path(target.name), schema)
    if target.copy:
        copies, unread = CopiedImages(aside), 0
        for table, formats, images in _with_images(candidates, columns, schema, fetch):
            kept, names = copies.add(formats, images)
            unread += int((~kept).sum())
            uris = pa.array([target.place.uri(name) for name in names], pa.string())
            uri = schema.get_field_index("uri")
            out.write(table.filter(pa.array(kept)).set_column(uri, schema.field(uri), uris))
        funnel.remove(_UNREAD, unread)
    else:
        for rows in candidates.scan(list(dict.fromkeys(columns.values()))):
            out.write(pa.table([rows[source] for source in columns.values()], schema=schema))
    out.close({CURATION_KEY: json.dumps(funnel.to_json(), ensure_ascii=False).encode()})


def _with_images(
    candidates: Candidates, columns: dict[str, str], schema: pa.Schema, fetch: FetchOptions
) -> Iterator[tuple[pa.Table, list[str | None], Iterator[bytes | None]]]:
    """The chosen rows, with the file formats of their images and the images."""
    embedded = f"{OWN}{candidates.own_image}" if candidates.own_image else None
    asked = [*columns.values(), *_ABOUT_IMAGES, *([embedded] if embedded else [])]
    for rows in candidates.scan(list(dict.fromkeys(asked))):
        images = fetch_scored(rows.select(_ABOUT_IMAGES), rows[embedded] if embedded else None, fetch)
        table = pa.table([rows[source] for source in columns.values()], schema=schema)
        yield table, rows["format"].to_pylist(), images


def _columns(candidates: Candidates, store: Store, funnel: Funnel) -> dict[str, str]:
    """Column of the output → how to ask the candidates for it."""
    scores = [name for question in store.questions for name in (question, f"{question}_std")]
    if candidates.own is None:
        names = [*(field.name for field in KEYS), *scores, *(field.name for field in IMAGE)]
        return {name: name for name in names}
    replaced = [name for name in candidates.own.names if name in scores]
    if replaced:
        funnel.notes.append(f"The manifest's own {', '.join(replaced)} gave way to the store's.")
    own = {name: f"{OWN}{name}" for name in candidates.own.names if name not in scores}
    # The id that the two were joined on, whatever the manifest calls it.
    return {"image_id": "image_id"} | own | {"image_id": "image_id"} | {name: name for name in scores}


def _field(candidates: Candidates, source: str) -> pa.Field:
    if source.startswith(OWN) and candidates.own is not None:
        return candidates.own.field(source.removeprefix(OWN))
    return candidates.schema.field(source)


def _file_schema(candidates: Candidates, columns: dict[str, str]) -> pa.Schema:
    """Schema of the output: the manifest's fields, with the metadata of Hugging Face `datasets`, and the scores."""
    fields = [_field(candidates, source).with_name(name).with_nullable(True) for name, source in columns.items()]
    noted = ((candidates.own.metadata if candidates.own is not None else None) or {}).get(HUGGING_FACE)
    return pa.schema(fields) if noted is None else with_features(pa.schema(fields), noted)
