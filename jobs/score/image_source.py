"""The source of each image of a unit: its uri, or the bytes that a table or a tar holds itself.

A plan names the bytes in a table by file, row group and row. If the file was rewritten since, they may be another
image's; so its version is compared before and after the images are read. A member of a tar is read in the version that
was planned, or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

import pyarrow as pa

from artimuse_actor.errors import ImageError, reason_of
from artimuse_actor.fetch.file_range import FileRange
from artimuse_actor.fetch.options import FetchOptions
from jobs.manifest.listing import version_of
from jobs.score.attempts import FATAL, Attempt
from jobs.storage.embedded_images import embedded_image
from jobs.storage.file_parts import read_parts

_BAD_ROW: Final = ImageError(
    "bad_row",
    "This row of the manifest names no image: its id or uri is null, longer than 32,768 bytes or not UTF-8. Mend the "
    "manifest, then run again with --retry-errors bad_row.",
)


def rewritten_files(rows: list[dict[str, Any]]) -> set[str]:
    """Files with images of these rows that are no longer the files that were planned."""
    planned = {(row["source_file"], row["source_version"]) for row in rows if row["uri"] is None and row["source_file"]}
    planned = {(file, version) for file, version in planned if not file.startswith("hf://")}  # of a commit
    return {file for file, version in planned if version is not None and _version_now(file) != version}


def _version_now(file: str) -> str | None:
    try:
        return version_of(file)
    except OSError:  # reading it will say why
        return None


def rewritten(file: str) -> ImageError:
    """The error of an image in a file that was rewritten."""
    return ImageError(
        "changed", f"{file} was rewritten after it was listed, so its rows may be other images now. Run again.",
        retryable=True,
    )  # fmt: skip


def unit_sources(
    rows: list[dict[str, Any]], attempt: Attempt, changed: Collection[str], fetching: FetchOptions
) -> Iterator[str | bytes | ImageError]:
    """The source of each row's image, noted by the attempt as it is reached; members of tars are read here."""
    members = [_member(row) if number not in attempt.fatal else None for number, row in enumerate(rows)]
    read = read_parts([member for member in members if member], fetching)
    for number, (row, member) in enumerate(zip(rows, members, strict=True)):
        attempt.reach(number)
        if member:
            yield next(read)
        else:
            yield FATAL if number in attempt.fatal else image_source(row, changed)


def _member(row: dict[str, Any]) -> FileRange | None:
    """The part of a file that a row's uri names, in the version that was planned."""
    return row["uri"] and FileRange.parse(row["uri"], row["source_version"])


def image_source(row: dict[str, Any], changed: Collection[str] = ()) -> str | bytes | ImageError:
    """The source of a row's image: a uri, or the bytes if they are embedded in a file that is not in `changed`."""
    if row["uri"] is not None:
        return str(row["uri"])
    file = row["source_file"]
    if file is None:
        return _BAD_ROW
    if file in changed and _version_now(file) is not None:
        return rewritten(file)
    try:
        data = embedded_image(
            file,
            row["source_version"],
            *(row["source_row_group"], row["source_row"], row["source_column"], row["source_item"]),
        )
    except ImageError as error:
        return error
    except FileNotFoundError:
        return ImageError("missing", f"The file of the image is gone: {file}.")
    except (OSError, pa.ArrowException) as error:
        return ImageError("fetch_failed", f"{file}: {reason_of(error)}", retryable=True)
    return data if data is not None else ImageError("missing", "The row holds no image: its bytes are null.")
