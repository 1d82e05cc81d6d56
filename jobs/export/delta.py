"""A store as a Delta table, by the package `deltalake` (extra `delta`). A second export makes a new version of it."""

from __future__ import annotations

from typing import Final

from artimuse_actor.errors import UsageError
from jobs.export.kind import Exported, ExportSettings, not_ours, origin
from jobs.export.library_target import LibraryTarget
from jobs.export.rows import open_rows
from jobs.store.stores import Stores

_MARK: Final = "Scores of ArtiMuse Batch"


def write(stores: Stores, settings: ExportSettings) -> Exported:
    """Write the table.

    Raises:
        UsageError: the package is not installed.
        ExportError: something else is there.
    """
    out = settings.target
    try:
        from deltalake import CommitProperties, write_deltalake
    except ImportError as error:
        raise UsageError("--as delta needs the package `deltalake`: pip install 'artimuse-batch[delta]'.") from error
    target = LibraryTarget.of(out)
    if target.is_there and not _is_ours(target):
        raise not_ours(out)
    with open_rows(stores, settings.on_duplicate) as rows:
        with rows.explained(out):
            write_deltalake(
                target.uri,
                rows.reader(),
                mode="overwrite",
                schema_mode="overwrite",
                description=_MARK,
                storage_options=target.options,
                commit_properties=CommitProperties(custom_metadata=origin(stores)),
            )
        return Exported(out, rows.count, notes=tuple(rows.notes))


def _is_ours(target: LibraryTarget) -> bool:
    from deltalake import DeltaTable

    if not DeltaTable.is_deltatable(target.uri, target.options):
        return False
    return DeltaTable(target.uri, storage_options=target.options).metadata().description == _MARK
