"""The command `artimuse export`."""

from __future__ import annotations

import json
from typing import Annotated, Final

import typer

from jobs.commands.options import AsJson, ReadMixed, StoresNamed
from jobs.words import show

OF_SOME_KINDS: Final[tuple[str, ...]] = ()
"""Parameters that only some kinds have, see `jobs.export.kind.Kind`; each is None or False unless it is given."""


def export(
    stores: StoresNamed,
    kind: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="KIND",
            help="hf (a data set folder for `datasets`), sidecar (a Parquet file beside each tar), sql (a DuckDB or "
            "SQLite file), delta or lance (a table).",
            show_default=False,
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|DIR",
            help="File or folder to write; sidecars need none. An earlier export is replaced, anything else is not.",
            show_default=False,
        ),
    ] = None,
    on_duplicate: Annotated[
        str,
        typer.Option(metavar="error|first", help="What an id in several stores does: end the export, or count once."),
    ] = "error",
    allow_mixed: ReadMixed = False,
    as_json: AsJson = False,
) -> None:
    """Write the scores and texts of a store in the form that another tool opens.

    Every row of the store is there, failed ones too: their column status says so. To choose rows, or to bring images
    along, use `artimuse curate`.
    """
    from jobs.export.export import export as run
    from jobs.export.kind import ExportSettings

    given = {name: value for name, value in locals().items() if name in OF_SOME_KINDS and value not in (None, False)}
    done = run(ExportSettings(tuple(stores), kind, out, allow_mixed, on_duplicate, given))
    if as_json:
        print(json.dumps(done.to_json()))
        return
    for line in done.lines():
        show(line)
