"""A store as a Lance data set, by the package `pylance` (extra `lance`). A second export makes a new version of it."""

from __future__ import annotations

from artimuse_actor.errors import UsageError
from jobs.export.kind import Exported, ExportSettings, not_ours, origin
from jobs.export.library_target import LibraryTarget
from jobs.export.rows import open_rows
from jobs.store.stores import Stores


def write(stores: Stores, settings: ExportSettings) -> Exported:
    """Write the data set.

    Raises:
        UsageError: the package is not installed.
        ExportError: something else is there.
    """
    out = settings.target
    try:
        import lance
    except ImportError as error:
        raise UsageError("--as lance needs the package `pylance`: pip install 'artimuse-batch[lance]'.") from error
    target = LibraryTarget.of(out)
    if target.is_there and not _is_ours(target):
        raise not_ours(out)
    with open_rows(stores, settings.on_duplicate) as rows:
        with rows.explained(out):
            mode = "overwrite" if target.is_there else "create"
            lance.write_dataset(rows.reader(origin(stores)), target.uri, mode=mode, storage_options=target.options)
        return Exported(out, rows.count, notes=tuple(rows.notes))


def _is_ours(target: LibraryTarget) -> bool:
    import lance

    try:
        known = lance.dataset(target.uri, storage_options=target.options).schema.metadata
    except (OSError, ValueError):  # is no data set
        return False
    return b"artimuse.export" in (known or {})
