"""The stop of a run whose source has gone away: a disk that was unmounted, a server that does not answer any more.

Units of which no image could be read are held back until another one shows that the source is there. If too many come
in a row, or the folder itself is gone, the run stops, and none of them is committed. In a manifest single dead servers
are usual; their images fail at once after a few (see `artimuse_actor.fetch.retry`), and they stop the run only if they
are several, or if no image at all could be read before.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from artimuse_actor.errors import RunError
from artimuse_actor.uris import uri_scheme
from jobs.words import by_count

FETCH_ERRORS: Final = frozenset(("missing", "forbidden", "fetch_failed"))
_NO_ANSWER: Final = frozenset(("fetch_failed",))
MOST_IN_A_ROW: Final = 64
"""Images that may fail one after the other; fewer are rows that the next run retries."""
MOST_ORIGINS: Final = 3
"""Servers of a manifest of which no image can be read, one after the other: the network, and not they, is gone."""

Unit = tuple[int, int]


class Breaker:
    """Holds back the units of one run."""

    def __init__(
        self,
        root: str | None,
        unstage: Callable[[list[Unit]], None],
        origins: Callable[[Unit], Iterable[str]] = lambda _: (),
    ) -> None:
        """Watch a source.

        Args:
            root: the folder or prefix that was listed a moment ago; None for a manifest of the user's.
            unstage: called with units that must not be committed.
            origins: gives the servers of a unit's images, see `origin_of`.
        """
        self._root, self._unstage, self._origins_of = root, unstage, origins
        self._held: list[Unit] = []
        self._errors: Counter[str] = Counter()
        self._origins: set[str] = set()
        self._has_read = False  # any image, in this run

    def admit(self, receipt: Mapping[str, Any]) -> list[Unit]:
        """The units, as (shard, unit), that may be committed after this receipt.

        Raises:
            RunError: the source has gone away.
        """
        unit = receipt["shard"], receipt["unit"]
        expected = FETCH_ERRORS if self._root is not None else _NO_ANSWER
        failed = [kind for kind in receipt["error_types"] if kind in expected]
        self._held.append(unit)
        self._has_read |= len(failed) < receipt["rows"]
        if not failed:
            return self.rest()
        self._errors.update(failed)
        is_gone = self._root is not None and _is_gone(self._root)
        if len(failed) < receipt["rows"] and not is_gone:
            return self.rest()
        self._origins.update(self._origins_of(unit) if self._root is None else ())
        is_broken = self._errors.total() >= MOST_IN_A_ROW and (
            self._root is not None or len(self._origins) >= MOST_ORIGINS or not self._has_read
        )
        if is_gone or is_broken:
            self._unstage(self._held)
            what = f"{self._root} has gone away: it was listed a moment ago, and is empty or not there now"
            raise RunError(
                f"{what if is_gone else self._what_fails()} ({by_count(self._errors)}). None of these images was "
                "committed. Run again when it is back."
            )
        return []

    def _what_fails(self) -> str:
        if self._root is not None:
            what = f"{self._root} has gone away: it was listed a moment ago, and now images"
        elif len(self._origins) == 1:
            what = f"{min(self._origins)} does not answer: its images"
        else:
            what = f"The network seems to be away: images of {len(self._origins)} servers"
        return f"{what} cannot be read one after the other"

    def rest(self) -> list[Unit]:
        """The units that are still held back; no more than these have failed."""
        held, self._held = self._held, []
        self._errors.clear()
        self._origins.clear()
        return held


def _is_gone(root: str) -> bool:
    """Whether a folder of a disk is no longer there, or is empty like one whose disk was unmounted."""
    if uri_scheme(root) != "file":
        return False
    try:
        with os.scandir(root) as entries:
            return next(entries, None) is None
    except OSError:
        return True
