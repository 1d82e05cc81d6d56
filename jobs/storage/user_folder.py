"""A folder of the user's, on a disk or in a bucket: made aside, and complete when it appears."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from artimuse_actor.errors import StoreError
from artimuse_actor.whole_file import sync
from jobs.storage.buckets import put_file
from jobs.storage.place import Place
from jobs.storage.places import open_place


@contextmanager
def growing_folder(out: str) -> Iterator[str]:
    """A temporary folder on the disk of the target `out`, or any disk if that is in a bucket; deleted at the end.

    Raises:
        StoreError: files cannot be written.
    """
    place = open_place(out)
    root = _followed(place)
    beside = os.path.dirname(root) if root else None
    try:
        if beside:
            os.makedirs(beside, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=beside, prefix=f".{os.path.basename(place.root)}-") as outer:
            os.mkdir(folder := os.path.join(outer, "files"))
            yield folder
    except OSError as error:
        raise StoreError(f"{out}: cannot be written: {error}. Nothing was written.") from error


def publish_folder(folder: str, place: Place, last: Sequence[str], mark: tuple[str, bytes]) -> None:
    """Give the files of a growing folder their names, in place of all that is there.

    On a disk they appear all at once. In a bucket they are put one by one.

    Args:
        folder: see `growing_folder`.
        place: the target.
        last: names of files that are put after all others, in this order.
        mark: a file, and what it says meanwhile, by which the target is known for ours even if this process dies.
    """
    root = _followed(place)
    if root is not None:
        for name in files_below(folder):
            sync(os.path.join(folder, name))
        if os.path.isdir(root):
            os.rename(root, f"{folder}.old")
        os.rename(folder, root)
        shutil.rmtree(f"{folder}.old", ignore_errors=True)
        return
    before = {file.path for file in place.files("")}
    place.write(*mark)
    names = put_last(files_below(folder), last)
    for name in names:
        put_file(os.path.join(folder, name), place.uri(name))
    for name in sorted(before - set(names)):
        place.delete(name)


def _followed(place: Place) -> str | None:
    """The path of a folder on a disk, that a link leads to if it is one: a link stays, as where the user wants it."""
    root = place.local_path("")
    return root and os.path.realpath(root)


def files_below(folder: str) -> list[str]:
    """Paths of all files of a local folder, relative to it, sorted."""
    return sorted(
        os.path.relpath(os.path.join(parent, name), folder) for parent, _, names in os.walk(folder) for name in names
    )


def put_last(names: Sequence[str], last: Sequence[str]) -> list[str]:
    """The same names, those of `last` at the end."""
    return sorted(names, key=lambda name: last.index(name) if name in last else -1)


def foreign_file(place: Place, is_ours: Callable[[str], object], is_marked: Callable[[], bool]) -> str | None:
    """A file of a folder that must not be replaced: one whose path is not ours, or any if the folder has no mark."""
    files = [file.path for file in place.files("")]
    if others := [path for path in files if not is_ours(path)]:
        return others[0]
    return files[0] if files and not is_marked() else None
