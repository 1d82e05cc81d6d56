"""Some bytes of a file, as a uri: `s3://bucket/00000.tar#bytes=512-20479`, first and last byte as in HTTP's Range.

Only of tar files, whose members are images of their own. To everything else a `#` is a part of the name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from artimuse_actor.errors import ImageError

_RANGE: Final = re.compile(r"bytes=(\d{1,18})-(-?\d{1,18})", re.IGNORECASE)


def changed_meanwhile() -> ImageError:
    """The error of bytes of a file that is another one now."""
    return ImageError("changed", "The file was rewritten after it was listed. Run again.", retryable=True)


@dataclass(frozen=True)
class FileRange:
    """Some bytes of a file.

    Attributes:
        uri: of the file.
        first: place of the first byte.
        size_bytes: how many.
        version: which the file must have, see `jobs.manifest.listing`; None for any.
    """

    uri: str
    first: int
    size_bytes: int
    version: str | None = None

    @classmethod
    def parse(cls, uri: str, version: str | None = None) -> Self | None:
        """The range that a uri names; None if it names a whole file."""
        file, _, fragment = uri.rpartition("#")
        match = _RANGE.fullmatch(fragment)
        name = file.rpartition("#")[2].lower()  # without a regular expression, whose time can be quadratic
        if match is None or not (name.endswith(".tar") or ".tar?" in name):
            return None
        first, last = int(match[1]), int(match[2])
        return cls(file, first, last + 1 - first, version) if last + 1 >= first else None

    def __str__(self) -> str:
        return f"{self.uri}#bytes={self.first}-{self.first + self.size_bytes - 1}"

    @property
    def header(self) -> str:
        """As the value of HTTP's header `Range`."""
        return f"bytes={self.first}-{self.first + self.size_bytes - 1}"
