"""Names of sidecars: `a.jpg.xmp` (digiKam, darktable, Immich, PhotoPrism) or `a.xmp` (Lightroom, for raw files)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Set
from typing import Final

from artimuse_actor.errors import UsageError
from jobs.manifest.listing import IMAGE_SUFFIXES, UNREADABLE_SUFFIXES

FULL, STEM, AUTO = "full", "stem", "auto"
NAMINGS: Final = (AUTO, FULL, STEM)
_SUFFIX: Final = ".xmp"
ENDING: Final = r"\.[^./]*$"
"""Regular expression of what the names of two pictures with one `a.xmp` differ in."""


def check_naming(naming: str) -> None:
    """Raise UsageError if it is none."""
    if naming not in NAMINGS:
        raise UsageError(f"--naming takes auto, full (a.jpg.xmp) or stem (a.xmp), not {naming!r}.")


class Folders:
    """The names in the folder of the pictures that are named now, listed once while they are of one folder."""

    def __init__(self, naming: str) -> None:
        """Choose names in this way."""
        self._naming = naming
        self._folder: str | None = None
        self._names: Set[str] = frozenset()
        self._stems: Counter[str] = Counter()
        self._usual = FULL

    def is_shared(self, picture: str) -> bool:
        """Whether another picture here has the same name but for its end, so that `a.xmp` may be of that one."""
        folder, name = os.path.split(picture)
        self._list(folder)
        return self._stems[os.path.splitext(name)[0]] > 1

    def sidecar_of(self, picture: str, *, is_shared: bool) -> str | None:
        """The path of a picture's sidecar; None if the picture is not there any more.

        Args:
            picture: its path.
            is_shared: whether another picture of the store has the same name but for its end.
        """
        folder, name = os.path.split(picture)
        self._list(folder)
        if name not in self._names:
            return None
        full, stem = f"{name}{_SUFFIX}", f"{os.path.splitext(name)[0]}{_SUFFIX}"
        naming = self._naming
        if naming == AUTO:
            naming = self._usual
            if full in self._names or is_shared or self.is_shared(picture):
                naming = FULL
            elif stem in self._names:
                naming = STEM
        return os.path.join(folder, full if naming == FULL else stem)

    def _list(self, folder: str) -> None:
        if folder == self._folder:
            return
        try:
            self._names = frozenset(os.listdir(folder or "."))
        except OSError:
            self._names = frozenset()
        self._folder = folder
        parts = map(os.path.splitext, self._names)
        self._stems = Counter(stem for stem, end in parts if end.lower() in IMAGE_SUFFIXES | UNREADABLE_SUFFIXES)
        sidecars = [name.removesuffix(_SUFFIX) for name in self._names if name.endswith(_SUFFIX)]
        full = sum(name in self._names for name in sidecars)
        self._usual = STEM if len(sidecars) > 2 * full else FULL


def below(folder: str, image_id: str) -> str | None:
    """The path of the sidecar of an image in a folder of sidecars; None if its id is no path there, such as a url."""
    if os.path.isabs(image_id) or {"", ".", ".."} & set(image_id.split("/")) or "\0" in image_id:
        return None
    return os.path.join(folder, f"{image_id}{_SUFFIX}")
