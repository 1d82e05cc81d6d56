"""A listing of a store that lags behind its files, as those of some S3-compatible servers do.

A file that is not listed would be planned again and its rows doubled, and a compaction would leave it out. The file of
the plan is read by its name, and names the files of the tables; so each of them that is not listed is asked for.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from artimuse_actor.errors import StoreError
from jobs.storage.place import READ_THREADS, Place, exists
from jobs.store.plan_file import recorded_files
from jobs.store.table_files import TableFiles


def refuse_lagging_listing(place: Place, files: TableFiles) -> None:
    """Refuse a listing that lacks a file which is there; a disk always lists what it has.

    Raises:
        StoreError: it does; the message names the file.
    """
    if place.local_path("") is not None:
        return
    unlisted = sorted(recorded_files(place).difference(files.scores_paths, files.texts))
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for path, is_there in zip(unlisted, pool.map(lambda path: exists(place, path), unlisted), strict=True):
            if is_there:
                raise StoreError(
                    f"{place.uri(path)}: is there, but the server does not list it, so its rows would be doubled. "
                    "Nothing was written. Run again when its listings have caught up, or use a server whose listings "
                    "show every finished write."
                )
