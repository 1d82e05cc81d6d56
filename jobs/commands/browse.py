"""The command `artimuse browse`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.options import MAX_BYTES, AllowPrivateHosts, MaxBytes, Root
from jobs.words import show

if TYPE_CHECKING:
    from jobs.browse.browse import Ready


def browse(
    store: Annotated[str, typer.Argument(metavar="OUT", help="The --out of a run.", show_default=False)],
    port: Annotated[
        int, typer.Option(metavar="N", help="Port of 127.0.0.1; 0 for any that is free.", min=0, max=65_535)
    ] = 0,
    marks: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A manifest (Parquet) that always has the marked pictures; if it is there, its marks are the first. "
            "[default: the page offers one]",
            show_default=False,
        ),
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Print the address, and open no browser.")] = False,
    max_bytes: MaxBytes = MAX_BYTES,
    root: Root = None,
    allow_private_hosts: AllowPrivateHosts = False,
) -> None:
    """Look at the pictures of a store in the browser: search, filter, sort, mark; Ctrl-C ends it.

    Only this machine is answered, and only who knows the address. Marked pictures become a manifest that `artimuse
    score` takes, or get stars in XMP sidecars. Nothing else is written.
    """
    from artimuse_actor.fetch.options import FetchOptions
    from jobs.browse.browse import BrowseSettings, open_browser
    from jobs.browse.browse import browse as run

    def ready(server: Ready) -> None:
        show(f"{store}: {server.rows:,} rows at {server.url}")
        show("Ctrl-C ends it.")
        if not no_open:
            open_browser(server.url)

    unsaved = run(BrowseSettings(store, port, marks, FetchOptions(max_bytes, root, allow_private_hosts)), ready)
    show(f"\nEnded. {unsaved:,} marks were in no file; --marks FILE keeps them." if unsaved else "\nEnded.")
