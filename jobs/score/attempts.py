"""A unit's attempts, noted in the store until one ends, so that no image kills its loader for ever.

Ray runs a task again whose process died, as often as that happens. The second attempt decodes in a child, which dies
instead of the task; from the third on each image is noted before it is loaded, and one during which an attempt ended is
left out of the next.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from artimuse_actor.errors import ImageError
from jobs.storage.place import Place

FATAL: Final = ImageError(
    "decoder_memory",
    "The process that loaded it was killed, as it happens when the machine has no memory left. "
    "Run again when it has more.",
    retryable=True,
)
"""The error of an image during which an attempt ended."""

_CAREFUL_FROM: Final = 3


@dataclass(frozen=True)
class Attempt:
    """One attempt to load a unit.

    Attributes:
        place: the place of the store.
        path: where it is noted.
        number: from 1.
        fatal: rows of the unit during which earlier attempts ended.
    """

    place: Place
    path: str
    number: int = 1
    fatal: tuple[int, ...] = ()

    @classmethod
    def begin(cls, place: Place, path: str) -> Attempt:
        """The next attempt of the unit that is noted at this path."""
        first = cls(place, path)
        if place.create(path, first._note(None)):
            return first
        try:
            before = json.loads(place.read(path))
        except (FileNotFoundError, ValueError):  # of another version, or ended meanwhile, which Ray took for lost
            before = {}
        reached = before.get("row")
        fatal = (*before.get("fatal", ()), *([] if reached is None else [reached]))
        attempt = cls(place, path, before.get("number", 1) + 1, fatal)
        place.write(path, attempt._note(None))
        return attempt

    @property
    def is_careful(self) -> bool:
        """Whether images are noted, and so loaded one by one."""
        return self.number >= _CAREFUL_FROM

    def reach(self, row: int) -> None:
        """Note that this row of the unit is about to be loaded."""
        if self.is_careful:
            self.place.write(self.path, self._note(row))

    def end(self) -> None:
        """The unit is loaded."""
        self.place.delete(self.path)

    def _note(self, row: int | None) -> bytes:
        note: dict[str, Any] = {"number": self.number, "row": row, "fatal": self.fatal}
        return json.dumps(note).encode()
