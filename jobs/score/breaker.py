"""The stop of a run whose source has gone away: a disk that was unmounted, a server that does not answer any more.

Units of which no image could be read are held back until another one shows that the source is there. If too many come
in a row, or the folder itself is gone, the run stops, and none of them is committed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from artimuse_actor.errors import RunError

FETCH_ERRORS: Final = frozenset(("missing", "forbidden", "fetch_failed"))
MOST_IN_A_ROW: Final = 64
"""Images of a listed source that may fail one after the other; fewer are rows that the next run retries."""

Unit = tuple[int, int]


class Breaker:
    """Holds back the units of one run."""

    def __init__(self, root: str | None, unstage: Callable[[list[Unit]], None]) -> None:
        """Watch a source.

        Args:
            root: the folder or prefix that was listed a moment ago; None holds back nothing, since single dead uris are
                usual in a manifest.
            unstage: called with units that must not be committed.
        """
        self._root, self._unstage = root, unstage
        self._held: list[Unit] = []
        self._errors: Counter[str] = Counter()

    def admit(self, receipt: Mapping[str, Any]) -> list[Unit]:
        """The units, as (shard, unit), that may be committed after this receipt.

        Raises:
            RunError: the source has gone away.
        """
        failed = [kind for kind in receipt["error_types"] if kind in FETCH_ERRORS]
        self._held.append((receipt["shard"], receipt["unit"]))
        if self._root is None or not failed:
            return self.rest()
        self._errors.update(failed)
        is_gone = _is_gone(self._root)
        if len(failed) < receipt["rows"] and not is_gone:
            return self.rest()
        if is_gone or self._errors.total() >= MOST_IN_A_ROW:
            self._unstage(self._held)
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self._errors.most_common())
            raise RunError(
                f"{self._root} has gone away: it was listed a moment ago, and now images cannot be read one after the "
                f"other ({kinds}). None of them was committed. Run again when it is back."
            )
        return []

    def rest(self) -> list[Unit]:
        """The units that are still held back; no more than these have failed."""
        held, self._held = self._held, []
        self._errors.clear()
        return held


def _is_gone(root: str) -> bool:
    """Whether a folder is no longer there, or is empty like one whose disk was unmounted."""
    if root.startswith("s3://"):
        return False
    try:
        with os.scandir(root) as entries:
            return next(entries, None) is None
    except OSError:
        return True
