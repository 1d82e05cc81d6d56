"""Processes and servers that a test starts, held against its marks.

`make check-fast` runs the tests without any of these marks, and they must start nothing.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest

FIXTURE_MARKS: Final = {
    "s3_endpoint": ("server", "process"),
    "google": ("server", "process"),
    "azure": ("server", "process"),
    "hub": ("server",),
    "web_proxy": ("server",),
    "browser": ("browser", "process"),
}
"""Marks of all tests that use a fixture, by themselves or through another one."""

PARAMETER_FIXTURES: Final = {"s3": "s3_endpoint", "web": "web_proxy", "gs": "google", "az": "azure"}
"""Fixtures that tests ask for by a name in a parameter."""

ENOUGH: Final = {"process": ("process", "ray", "browser"), "server": ("server",), "ray": ("ray",)}
"""Kind of thing that was started → marks of which one is enough: Ray and a browser are processes too."""

_started: Final[set[str]] = set()


def mark_by_fixtures(items: Sequence[pytest.Item]) -> None:
    """Add the marks of `FIXTURE_MARKS`."""
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        # Fixtures that a test asks for by the name in a parameter are not among them.
        asked = [value for value in _parameters(item).values() if isinstance(value, str)]
        used |= {fixture for name, fixture in PARAMETER_FIXTURES.items() if name in asked}
        for fixture in used & FIXTURE_MARKS.keys():
            for mark in FIXTURE_MARKS[fixture]:
                item.add_marker(mark)


def _parameters(item: pytest.Item) -> dict[str, object]:
    return getattr(getattr(item, "callspec", None), "params", {})


def watch() -> None:
    """Note subprocesses and sockets that listen from now on; helpers note themselves where they use Ray."""
    _note_calls(subprocess.Popen, "__init__", "process")
    _note_calls(socket.socket, "listen", "server")


def note(kind: str) -> None:
    """Something of a kind of `ENOUGH` is used."""
    _started.add(kind)


def forget_what_was_started() -> None:
    """A test begins."""
    _started.clear()


def refuse_unmarked(item: pytest.Item) -> None:
    """Fail a test that started what none of its marks names."""
    missing = sorted(kind for kind in _started if not any(map(item.get_closest_marker, ENOUGH[kind])))
    if missing:
        pytest.fail(f"It started what it has no mark for: {', '.join(missing)}.", pytrace=False)


def _note_calls(owner: Any, name: str, kind: str) -> None:
    method: Callable[..., Any] = getattr(owner, name)

    def noting(self: Any, *arguments: Any, **options: Any) -> Any:
        note(kind)
        return method(self, *arguments, **options)

    setattr(owner, name, noting)
