"""The page: one HTML document with its style and script, of which nothing runs but what has the nonce of the answer."""

from __future__ import annotations

import secrets
from functools import cache
from importlib.resources import files
from typing import Final

import jinja2
from markupsafe import Markup

from jobs.browse.server import Answer

_POLICY: Final = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(title: str) -> Answer:
    """The page, with a nonce of its own."""
    nonce = secrets.token_urlsafe(16)
    html = _template().render(
        title=title,
        nonce=nonce,
        # Our own files. The report's come first: both look alike.
        style=Markup(_file("jobs.report", "page.css") + _file("jobs.browse", "page.css")),
        script=Markup(_file("jobs.report", "elements.js") + _file("jobs.browse", "page.js")),
    )
    policy = {"Content-Security-Policy": _POLICY.format(nonce=nonce)}
    return Answer(html.encode("utf-8", errors="backslashreplace"), "text/html; charset=utf-8", headers=policy)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_file("jobs.browse", "page.html"))


@cache
def _file(package: str, name: str) -> str:
    return (files(package) / name).read_text(encoding="utf-8")
