"""The commands about an existing store: `artimuse status` and `artimuse compact`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from jobs.commands.options import AsJson
from jobs.words import show


def status(
    out: Annotated[str, typer.Argument(metavar="OUT", help="The --out of a run.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Tell what a store holds and how each run went.

    Rows planned, scored, failed by type and remaining; manifest and table are reconciled in one line.
    """
    from jobs.store.status import store_status
    from jobs.store.text import show_status

    found = store_status(out)
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        show_status(found)


def compact(
    store: Annotated[str, typer.Argument(metavar="OUT", help="The --out of runs.", show_default=False)],
    out: Annotated[str, typer.Option(metavar="NEW", help="Folder or s3:// prefix to make.", show_default=False)],
) -> None:
    """Write the many small files of nightly runs as few large ones, in a new store with the same rows.

    The old store stays as it is. Killed in the middle, run it again; then score into the new one.
    """
    from jobs.store.maintenance import compact as run

    done = run(store, out)
    show(f"{out}: {done.rows:,} rows in {done.files_after:,} files, {done.files_before:,} before.")
