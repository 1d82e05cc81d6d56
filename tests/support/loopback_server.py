"""A web server on loopback whose clients may hang up whenever they like."""

from __future__ import annotations

from http.server import ThreadingHTTPServer


class LoopbackServer(ThreadingHTTPServer):
    """As the library's, whose `handle_error` would print a traceback on the screen that a test looks at."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no news."""
