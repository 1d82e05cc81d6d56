"""A store looked at in the browser, until somebody ends it."""

from __future__ import annotations

import threading
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass, field

from artimuse_actor.fetch.options import FetchOptions
from jobs.browse.marks import Marks
from jobs.browse.pictures import Pictures
from jobs.browse.server import Server
from jobs.browse.site import Site
from jobs.score.signals import terminable


@dataclass(frozen=True)
class BrowseSettings:
    """Arguments of a browse.

    Attributes:
        store: the --out of runs.
        port: of loopback; 0 for any that is free.
        marks: the manifest that always has the marks; None for none.
        fetch: how images are fetched.
    """

    store: str
    port: int = 0
    marks: str | None = None
    fetch: FetchOptions = field(default_factory=FetchOptions)


@dataclass(frozen=True)
class Ready:
    """A server that listens.

    Attributes:
        url: of its page.
        rows: of the store.
    """

    url: str
    rows: int


def browse(settings: BrowseSettings, ready: Callable[[Ready], None]) -> int:
    """Answer the requests of a page until Ctrl-C or SIGTERM.

    Args:
        settings: what is shown, and where.
        ready: called once, when the server listens.

    Returns:
        How many marks no file has.

    Raises:
        StoreError: there is no store, or a file of it is gone or not whole.
        UsageError: the port cannot be listened on, or the file of marks is of another store.
    """
    marks = Marks(settings.marks)
    with Pictures(settings.fetch.for_people()) as pictures:
        site = Site(settings.store, marks, pictures, settings.fetch.root)
        try:
            with Server(settings.port, site.pages()) as server, terminable():
                ready(Ready(server.url, site.rows))
                server.serve_forever()
        except KeyboardInterrupt:
            pass
        finally:
            site.close()
    return len(marks) if marks.unsaved else 0


def open_browser(url: str) -> None:
    """Open a page in the browser of this desktop, if there is one; one that fills the terminal is none."""
    try:
        found = webbrowser.get()
    except webbrowser.Error:
        return
    if type(found) is not webbrowser.GenericBrowser:
        threading.Thread(target=found.open, args=(url,), daemon=True).start()
