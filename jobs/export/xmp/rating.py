"""Stars that a person gives to pictures, written into their sidecars."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from artimuse_actor.errors import ImageError, UsageError
from artimuse_actor.fetch.confinement import check_path_inside
from artimuse_actor.uris import local_path, uri_scheme
from jobs.export.xmp.journal import Journal
from jobs.export.xmp.naming import AUTO, Folders
from jobs.export.xmp.sidecar import Change, rated
from jobs.export.xmp.work import Work, Written
from jobs.storage.place import Place
from jobs.store.run_record import new_run_id

MOST_STARS: Final = 5


def rate(
    place: Place, pictures: Iterable[tuple[str | None, bool]], stars: int, *, overwrite: bool, root: str | None = None
) -> Written:
    """Give pictures so many stars; `artimuse export --as xmp --undo` takes them back.

    Args:
        place: the store's, which has the journal.
        pictures: uris, and whether another picture has the same name but for its end.
        stars: from 1 to 5.
        overwrite: whether ratings that people gave before are replaced.
        root: the folder outside of which nothing is written; None allows all.

    Raises:
        UsageError: so many stars there are not.
    """
    if not 1 <= stars <= MOST_STARS:
        raise UsageError(f"A picture has 1 to {MOST_STARS} stars, not {stars}.")
    work, folders, count = Work(Journal(place, new_run_id())), Folders(AUTO), 0
    changes: list[Callable[[], Change]] = []
    for uri, is_shared in sorted(pictures, key=lambda picture: picture[0] or ""):  # folder by folder
        count += 1
        if uri is None or uri_scheme(uri) != "file" or "#bytes=" in uri:
            work.skipped["whose pictures are not files on this machine"] += 1
            continue
        picture = os.path.abspath(local_path(uri))
        if root is not None and not _is_inside(picture, root):
            work.skipped["whose pictures are outside of --root"] += 1
        elif path := folders.sidecar_of(picture, is_shared=is_shared):
            changes.append(partial(rated, path, str(stars), overwrite=overwrite))
        else:
            work.skipped["whose pictures are gone"] += 1
    work.do(changes)
    return work.result(place.root, count)


def _is_inside(path: str, root: str) -> bool:
    try:
        check_path_inside(path, root)
    except ImageError:
        return False
    return True
