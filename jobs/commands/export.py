"""The command `artimuse export`."""

from __future__ import annotations

import json
from typing import Annotated, Final

import typer

from jobs.commands.options import AsJson, ReadMixed, StoresNamed
from jobs.words import show

OF_SOME_KINDS: Final[tuple[str, ...]] = (
    *("stars", "reject_below", "texts_as", "naming", "sidecar_dir", "score_column"),
    *("overwrite", "dry_run", "undo"),
)
"""Parameters that only some kinds have, see `jobs.export.kind.Kind`; each is None or False unless it is given."""


def export(
    stores: StoresNamed,
    kind: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="KIND",
            help="xmp (sidecars with stars), hf (a data set folder for `datasets`), sidecar (a Parquet file beside "
            "each tar), sql (a DuckDB or SQLite file), delta or lance (a table).",
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
    stars: Annotated[
        str | None,
        typer.Option(
            metavar="POINTS,…",
            help="xmp: the scores from which 1 to 5 stars are given; or shares of the pictures, such as "
            "50%,75%,90%,97%,99%; or quantiles (fifths). [default: 30,45,60,75,90]",
            show_default=False,
        ),
    ] = None,
    reject_below: Annotated[
        float | None,
        typer.Option(metavar="POINTS", help="xmp: mark lower scores as rejected (-1).", show_default=False),
    ] = None,
    score_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="xmp: which score counts, such as iqa. [default: the protocol's first]"),
    ] = None,
    texts_as: Annotated[
        str | None,
        typer.Option(
            metavar="description|own",
            help="xmp: also write the texts, as the picture's description or as properties of our own.",
            show_default=False,
        ),
    ] = None,
    naming: Annotated[
        str | None,
        typer.Option(
            metavar="auto|full|stem",
            help="xmp: a.jpg.xmp (full), a.xmp (stem), or what lies there. [default: auto]",
            show_default=False,
        ),
    ] = None,
    sidecar_dir: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="xmp: where sidecars go that cannot be beside their pictures, by image_id. [default: nowhere]",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="xmp: also replace ratings and descriptions that a person gave.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="xmp: print what would change; write nothing.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="xmp: take back what earlier exports of OUT wrote.")] = False,
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
