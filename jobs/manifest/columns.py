"""The columns of a table that are the id, the uri, the image and so on: by their names, their types, or as asked.

Ids are texts. Of another type they are written as people write them: an integer in decimal, a uuid as
`8-4-4-4-12` hexadecimal digits, other bytes as hexadecimal digits. An id of several columns is their texts joined by
`/`, with `%` and `/` within one written as `%25` and `%2F`, so that no two different rows get the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from artimuse_actor.errors import ManifestError
from artimuse_actor.uris import ALIASES, uri_as_id
from jobs.manifest.img2dataset import KEY, STATUS, image_column
from jobs.manifest.manifest import ManifestOptions

GUESSED: Final = ("url", "URL", "path", "image_path", "file_name", "filepath")
"""Names of columns that are taken for the uri where there is neither `uri` nor `image`."""

_TEXT: Final = pa.string()
_MAY_HAVE_SECRETS: Final = "(?s)://(.*[@?#;=]|[^/]*:)"


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns by their role.

    Attributes:
        ids: of the id; empty if it is made of the uri, or of file and row.
        uri: of paths or uris, or None.
        image: of images that the table holds itself, or None.
        version: or None.
        gt_score: or None.
        status: of img2dataset's download, without which there is no image; or None.
    """

    ids: tuple[str, ...]
    uri: str | None
    image: str | None
    version: str | None
    gt_score: str | None
    status: str | None = None

    @classmethod
    def choose(cls, schema: pa.Schema, options: ManifestOptions, path: str) -> Columns:
        """Choose from a schema; raises ManifestError, with this path, if it has not what is asked for."""
        if doubled := [name for name in set(schema.names) if schema.names.count(name) > 1]:
            raise ManifestError(f"{path}: has two columns of the name {doubled[0]!r}. Rename one of them.")
        for name in (options.uri_column, options.image_column, *options.id_names):
            if name is not None and name not in schema.names:
                raise ManifestError(f"{path}: has no column {name!r} (it has {_some(schema)}).")
        status = None
        if (downloaded := image_column(schema)) and not (options.uri_column or options.image_column):
            options = replace(options, image_column=downloaded)
            status = STATUS
        uri, image = _uri_and_image(schema, options, path)
        default = "image_id" if "image_id" in schema.names else KEY if status else None
        ids = options.id_names or ((default,) if default else ())
        version = "version" if "version" in schema.names else None
        gt_score = "gt_score" if "gt_score" in schema.names else None
        if uri and not is_text(kind := schema.field(uri).type):
            raise _wrong_type(path, uri, kind, "a string")
        for name in (*ids, *([version] if version else [])):
            if not becomes_text(kind := schema.field(name).type):
                raise _wrong_type(path, name, kind, "a string, an integer or bytes")
        if gt_score and not _is_number(kind := schema.field(gt_score).type):
            raise ManifestError(f"{path}: `gt_score` is of type {kind}; it must be a number.")
        return cls(ids, uri, image, version, gt_score, status)

    @property
    def types(self) -> dict[str, pa.DataType]:
        """The types of columns of a text file, whose first rows need not show them."""
        texts = [name for name in (*self.ids, self.uri, self.version) if name]
        return dict.fromkeys(texts, pa.string()) | ({self.gt_score: pa.float64()} if self.gt_score else {})


def _uri_and_image(schema: pa.Schema, options: ManifestOptions, path: str) -> tuple[str | None, str | None]:
    asked_uri, asked_image = options.uri_column, options.image_column
    if asked_image and not _may_hold_images(schema.field(asked_image).type):
        raise _wrong_type(
            path, asked_image, schema.field(asked_image).type, "bytes, a struct with `bytes`, or a string"
        )
    uri = asked_uri or ("uri" if "uri" in schema.names and not asked_image else None)
    image = asked_image or ("image" if "image" in schema.names else None)
    if image and is_text(item_type(schema.field(image).type)):
        if uri is None:
            return (image, None) if is_text(schema.field(image).type) else (None, image)
        image = None
    if image and not _may_hold_images(schema.field(image).type):
        image = None
    if uri or image:
        return uri, image
    guesses = [name for name in GUESSED if name in schema.names and is_text(schema.field(name).type)]
    if len(guesses) > 1:
        raise ManifestError(
            f"{path}: its columns {' and '.join(map(repr, guesses))} may both name the images. Choose one with "
            "--uri-column, or with --image-column a column of images."
        )
    if not guesses:
        raise ManifestError(
            f"{path}: has neither a column `uri` nor an `image` of bytes (it has {_some(schema)}). "
            "Name the column of paths or uris with --uri-column, or that of the images themselves with --image-column."
        )
    return guesses[0], None


def _wrong_type(path: str, name: str, kind: pa.DataType, wanted: str) -> ManifestError:
    return ManifestError(
        f"{path}: `{name}` is of type {kind}; it must be {wanted}. No image was read. Cast it, then run again."
    )


def _some(schema: pa.Schema) -> str:
    return ", ".join(schema.names[:20])


def text_of(column: pa.ChunkedArray) -> pa.Array:
    """A column of any type that `becomes_text` as strings, see the module. Raises pa.ArrowInvalid."""
    if _is_bytes(_plain(column.type)):
        values = column.to_pylist()  # of uuids, as Python has them
        return pa.array([value.hex() if isinstance(value, bytes) else value and str(value) for value in values], _TEXT)
    strings = column.cast(_TEXT).combine_chunks()
    strings.validate(full=True)  # that it is UTF-8: the next check would be when a table is written, too late
    return strings


def joined_ids(columns: list[pa.Array]) -> pa.Array:
    """One id of the texts of several columns; null where one of them is."""
    if len(columns) == 1:
        return columns[0]
    escaped = [pc.replace_substring(pc.replace_substring(one, "%", "%25"), "/", "%2F") for one in columns]
    return pc.binary_join_element_wise(*escaped, "/")


def canonical_uris(uris: pa.Array) -> pa.Array:
    """Uris, each as `canonical_uri` has it."""
    if pc.any(pc.match_substring_regex(uris, f"^({'|'.join(ALIASES)})://")).as_py():
        for alias, scheme in ALIASES.items():
            uris = pc.replace_substring_regex(uris, f"^{alias}://", f"{scheme}://")
    return uris


def as_ids(uris: pa.Array) -> pa.Array:
    """Uris as ids: each as `canonical_uri` has it, without secrets, see `uri_as_id`."""
    uris = canonical_uris(uris)
    if not pc.any(pc.match_substring_regex(uris, _MAY_HAVE_SECRETS)).as_py():
        return uris
    return pa.array([None if uri is None else uri_as_id(uri) for uri in uris.to_pylist()], pa.string())


def is_image_type(kind: pa.DataType) -> bool:
    """Whether a column holds images: their bytes, or a struct with them as on the Hugging Face hub."""
    kind = _plain(kind)
    if pa.types.is_struct(kind):
        data = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else None
        return data is not None and (pa.types.is_null(data) or is_image_type(data))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def item_type(kind: pa.DataType) -> pa.DataType:
    """The type of a list's items; of any other type, itself."""
    return kind.value_type if is_list(kind) else kind


def is_list(kind: pa.DataType) -> bool:
    """Whether a row has several values."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds strings; one without a type holds none, and has no rows or only nulls."""
    kind = _plain(kind)
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    )  # fmt: skip


def becomes_text(kind: pa.DataType) -> bool:
    """Whether `text_of` can write a column."""
    plain = _plain(kind)
    return is_text(plain) or bool(pa.types.is_integer(plain)) or _is_bytes(plain)


def _may_hold_images(kind: pa.DataType) -> bool:
    return is_image_type(item_type(kind)) or is_text(item_type(kind))


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values of a dictionary, or of the storage of an extension such as uuid."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )  # fmt: skip


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind))
