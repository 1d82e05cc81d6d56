"""The commands about existing stores: `artimuse status`, `artimuse compact` and `artimuse merge`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.options import AsJson, StoresNamed
from jobs.words import show

if TYPE_CHECKING:
    from jobs.store.maintenance import Compaction


def status(
    stores: StoresNamed,
    as_json: AsJson = False,
) -> None:
    """Tell what a store holds and how each run went.

    Rows planned, scored, failed by type and remaining; manifest and table are reconciled in one line. Of several stores
    each, the sum, and whether an id is in two of them; as JSON a list.
    """
    from jobs.store.status import store_status
    from jobs.store.stores import doubled_between, matching_stores
    from jobs.store.text import show_status, show_sum

    names = matching_stores(stores)
    found = [store_status(name) for name in names]
    if as_json:
        shown = [one.to_json() for one in found]
        print(json.dumps(shown[0] if len(shown) == 1 else shown))
        return
    for one in found:
        show_status(one)
    if len(found) > 1:
        show_sum(found, doubled_between(names))


ByScore = Annotated[
    bool,
    typer.Option(
        "--by-score", help="Sort the rows of each file, the best first: who asks for those reads few of them."
    ),
]


def compact(
    store: Annotated[str, typer.Argument(metavar="OUT", help="The --out of runs.", show_default=False)],
    out: Annotated[str, typer.Option(metavar="NEW", help="Folder or prefix to make.", show_default=False)],
    by_score: ByScore = False,
) -> None:
    """Write the many small files of nightly runs as few large ones, in a new store with the same rows.

    The old store stays as it is. Killed in the middle, run it again; then score into the new one.
    """
    from jobs.store.maintenance import compact as run

    _show_compaction(run([store], out, by_score=by_score), out)


def merge(
    stores: Annotated[
        list[str],
        typer.Argument(metavar="OUT…", help="The --out of runs, or patterns such as 'runs/*'.", show_default=False),
    ],
    into: Annotated[str, typer.Option(metavar="NEW", help="Folder or prefix to make.", show_default=False)],
    by_score: ByScore = False,
) -> None:
    """Write the rows of several stores into a new one, in few large files.

    They must have the same fingerprint and texts, and no id may be in two of them. The old stores stay as they are.
    """
    from jobs.store.maintenance import compact as run

    _show_compaction(run(stores, into, by_score=by_score), into)


def _show_compaction(done: Compaction, out: str) -> None:
    files = "1 file" if done.files_after == 1 else f"{done.files_after:,} files"
    show(f"{out}: {done.rows:,} rows in {files}, {done.files_before:,} before.")
    for store, rows in done.unfinished.items():
        show(
            f"{store}: {rows:,} planned rows were not in its tables, so they are not here. If they are to come along, "
            "run its `artimuse score` to the end, and this again into another folder.",
            file=sys.stderr,
        )
