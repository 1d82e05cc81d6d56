"""The chosen rows as files: which columns they have, and the images beside them if those are wanted.

From a manifest all of its own columns are carried through, and the scores are added. Without one the columns are those
of the scores table that are about the image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from artimuse_actor.errors import UsageError
from artimuse_actor.fetch.options import FetchOptions
from jobs.curate.candidates import OWN, Candidates
from jobs.curate.funnel import Funnel
from jobs.curate.output_images import CopiedImages, TarFiles, fetch_scored
from jobs.curate.output_place import METADATA, Workshop
from jobs.curate.row_writers import is_json, open_row_file
from jobs.curate.sample_keys import NUMBER
from jobs.curate.tar_size import TarSize
from jobs.manifest.columns import is_image_type
from jobs.manifest.tars import SIDECARS
from jobs.storage.hub_features import HUGGING_FACE, with_features
from jobs.store.store import Store
from schemas.curation import CURATION_KEY
from schemas.scores import IMAGE, KEYS

SOURCE_URI: Final = "source_uri"
"""Column with the original uri of a copied image; its `uri` is that of the copy."""

_SCORED: Final = ["uri", "sha256"]
_ABOUT_IMAGES: Final = ["image_id", "format", *_SCORED]
_FILE_NAME: Final = pa.field("file_name", pa.string(), metadata={"doc": "as the library `datasets` asks for it"})
_UNREAD: Final = "images gone or changed since"


@dataclass(frozen=True)
class OutputOptions:
    """What is written beside the rows.

    Attributes:
        tar_size: of the tar files of a WebDataset.
        keys: of its samples, see `sample_keys`.
        caption: the column that is their `txt`; None for the source's own.
    """

    tar_size: TarSize
    keys: str = NUMBER
    caption: str | None = None


def write_chosen(
    candidates: Candidates, store: Store, aside: Workshop, fetch: FetchOptions, options: OutputOptions, funnel: Funnel
) -> None:
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
    if target.kind == "webdataset":
        _write_tars(candidates, columns, aside, fetch, options, funnel)
    elif target.copy:
        _write_copies(candidates, columns | {"uri": "uri", SOURCE_URI: "uri"}, aside, fetch, funnel)
    else:
        schema = _file_schema(candidates, columns)
        out = open_row_file(target.kind, aside.path(target.name), schema)
        for rows in candidates.scan(list(dict.fromkeys(columns.values()))):
            out.write(pa.table([rows[source] for source in columns.values()], schema=schema))
        out.close(_about(funnel))


def _write_tars(
    candidates: Candidates,
    columns: dict[str, str],
    aside: Workshop,
    fetch: FetchOptions,
    options: OutputOptions,
    funnel: Funnel,
) -> None:
    own = candidates.own.names if candidates.own is not None else []
    beside = {end: f"{OWN}{end}" for end in SIDECARS if end in own and _is_plain(_field(candidates, f"{OWN}{end}"))}
    columns = {name: source for name, source in columns.items() if source not in beside.values()}
    if options.caption is not None:
        beside["txt"] = f"{OWN}{options.caption}" if options.caption in own else options.caption
        if not _is_plain(_field(candidates, beside["txt"])):
            raise UsageError(f"--caption {options.caption}: is no column of texts.")
    schema = _file_schema(candidates, columns)
    tars, unread = TarFiles(aside, options.tar_size, options.keys), 0
    for table, rows, images in _with_images(candidates, columns, schema, fetch, list(beside.values())):
        about = {name: rows[name] for name in _ABOUT_IMAGES} | {end: _text(rows[name]) for end, name in beside.items()}
        unread += int((~tars.add(table, pa.table(about), images)).sum())
    tars.close()
    funnel.remove(_unread(fetch), unread)


def _write_copies(
    candidates: Candidates, columns: dict[str, str], aside: Workshop, fetch: FetchOptions, funnel: Funnel
) -> None:
    target, schema = aside.target, _file_schema(candidates, columns)
    out = open_row_file(target.kind, aside.path(target.name), schema)
    plain = pa.schema([_FILE_NAME, *(field for field in schema if is_json(field) and field.name != _FILE_NAME.name)])
    metadata = open_row_file("jsonl", aside.path(METADATA), plain)
    copies, unread = CopiedImages(aside), 0
    for table, rows, images in _with_images(candidates, columns, schema, fetch):
        kept, names = copies.add(rows, images)
        unread += int((~kept).sum())
        uris = pa.array([target.place.uri(name) for name in names], pa.string())
        uri = schema.get_field_index("uri")
        written = table.filter(pa.array(kept)).set_column(uri, schema.field(uri), uris)
        out.write(written)
        metadata.write(pa.table([names, *(written[name] for name in plain.names[1:])], schema=plain))
    metadata.close({})
    funnel.remove(_unread(fetch), unread)
    out.close(_about(funnel))


def _unread(fetch: FetchOptions) -> str:
    """The step of the funnel in which rows go whose images cannot be had."""
    return _UNREAD if fetch.root is None else f"{_UNREAD}, or outside --root {fetch.root}"


def _about(funnel: Funnel) -> dict[bytes, bytes]:
    return {CURATION_KEY: json.dumps(funnel.to_json(), ensure_ascii=False).encode()}


def _is_plain(field: pa.Field) -> bool:
    """Whether the values of a column are texts, or numbers, which can be written as such."""
    return is_json(field) and not pa.types.is_nested(field.type)


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string())


def _with_images(
    candidates: Candidates, columns: dict[str, str], schema: pa.Schema, fetch: FetchOptions, more: Sequence[str] = ()
) -> Iterator[tuple[pa.Table, pa.Table, Iterator[bytes | None]]]:
    """The chosen rows as they are written, the same with what else was asked for, and their images."""
    embedded = [f"{OWN}{candidates.own_image}"] if candidates.own_image else []
    asked = [*columns.values(), *_ABOUT_IMAGES, *embedded, *more]
    for rows in candidates.scan(list(dict.fromkeys(asked))):
        images = fetch_scored(rows.select(_SCORED), rows[embedded[0]] if embedded else None, fetch)
        yield pa.table([rows[source] for source in columns.values()], schema=schema), rows, images


def _columns(candidates: Candidates, store: Store, funnel: Funnel) -> dict[str, str]:
    """Column of the output → how to ask the candidates for it."""
    scores = [name for question in store.questions for name in (question, f"{question}_std")]
    scores += candidates.beside
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
