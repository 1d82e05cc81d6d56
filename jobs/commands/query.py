"""The command `artimuse query`."""

from __future__ import annotations

from typing import Annotated

import typer

from artimuse_actor.errors import UsageError
from jobs.commands.options import AsJson, ReadMixed, StoresNamed
from jobs.words import show


def query(
    stores: StoresNamed,
    sql: Annotated[
        str,
        typer.Argument(
            metavar="SQL", help="One query in DuckDB's SQL, over scores, texts and metrics.", show_default=False
        ),
    ],
    csv: Annotated[
        str | None,
        typer.Option(metavar="FILE|-", help="Write all rows as CSV; - is the standard output.", show_default=False),
    ] = None,
    parquet: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write all rows as Parquet.", show_default=False)
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Longer queries are stopped.")] = 600.0,
    memory: Annotated[
        int, typer.Option(metavar="BYTES", help="Memory of the query; beyond, it uses a temporary folder.")
    ] = 4 * 1024**3,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the FILE of --csv or --parquet if it is there already.")
    ] = False,
    allow_mixed: ReadMixed = False,
    as_json: AsJson = False,
) -> None:
    """Ask a store in SQL. Nothing but its tables can be read, and nothing but the output written.

    Of several stores `scores` has a column `store`. The first rows are shown as a table; --json, --csv and --parquet
    give all.
    """
    from jobs.query.output import print_json, show_rows, write_rows
    from jobs.query.query import QueryLimits
    from jobs.query.query import query as run
    from jobs.storage.user_files import is_there
    from jobs.store.store import keep_out_of_stores
    from jobs.store.stores import Stores

    if sum((as_json, csv is not None, parquet is not None)) > 1:
        raise UsageError("--json, --csv and --parquet: choose one of them.")
    opened = Stores.open(stores, allow_mixed=allow_mixed)
    for option, file in (("--csv", csv), ("--parquet", parquet)):
        if file and file != "-":
            keep_out_of_stores(file)
            if not overwrite and is_there(file):
                raise UsageError(
                    f"{option} {file}: is there already. Nothing was written. Replace it with --overwrite."
                )
    with run(opened, sql, QueryLimits(memory, timeout)) as (schema, rows):
        if as_json:
            print_json(schema, rows)
        elif csv is not None or parquet is not None:
            kind, out = ("csv", csv) if csv is not None else ("parquet", parquet)
            count = write_rows(kind, schema, rows, out or "")
            if out != "-":
                show(f"{out}: {count:,} rows.")
        else:
            show_rows(schema, rows)
