"""The option `--tar-size`: how much goes into one of the tar files that a curation writes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from artimuse_actor.errors import UsageError

_UNITS: Final = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class TarSize:
    """When a tar file is full.

    Attributes:
        images: how many it has at most; 10,000 by default, as of img2dataset.
        size_bytes: how many bytes of images and their files it has at most, unless one sample alone has more.
    """

    images: int = 10_000
    size_bytes: int | None = None

    @classmethod
    def read(cls, text: str | None) -> Self:
        """The value of the option: a number of images, or a size such as 500MB.

        Raises:
            UsageError: it is neither.
        """
        if text is None:
            return cls()
        match = re.fullmatch(r"([1-9]\d{0,11})\s?(KB|MB|GB)?", text, re.IGNORECASE)
        if match is None:
            raise UsageError(f"--tar-size takes a number of images, or a size such as 500MB or 1GB, not {text!r}.")
        if match[2] is None:
            return cls(int(match[1]))
        return cls(10**12, int(match[1]) * _UNITS[match[2].upper()])

    def is_full(self, images: int, size_bytes: int, more_bytes: int) -> bool:
        """Whether a sample of `more_bytes` goes into the next file."""
        return images >= self.images or (
            images > 0 and self.size_bytes is not None and size_bytes + more_bytes > self.size_bytes
        )
