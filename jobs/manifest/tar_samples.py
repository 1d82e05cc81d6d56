"""The sample of a tar that an image belongs to, from the row of its score."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from artimuse_actor.fetch.file_range import FileRange

_NAME: Final = re.compile(r"[^/?]*\.tar(?=(?:\?[^#]*)?$)", re.IGNORECASE)
_KEY: Final = re.compile(r"((?:.*/)?[^/.]*)\.[^/]*", re.DOTALL)


@dataclass(frozen=True)
class TarSample:
    """A sample of a tar.

    Attributes:
        tar_id: the tar as the image's id begins with it, such as `train/00000.tar`.
        key: the name that the files of the sample have in common: up to the first dot of its last part.
    """

    tar_id: str
    key: str

    @classmethod
    def of(cls, image_id: str, uri: str | None) -> Self | None:
        """The sample of an image; None if it is no member of a tar."""
        part = FileRange.parse(uri) if uri is not None else None
        name = _NAME.search(part.uri) if part else None
        if name is None:
            return None
        # The id is that of the tar, a slash and the name of the member.
        before, found, member = f"/{image_id}".partition(f"/{name[0]}/")
        key = _KEY.fullmatch(member)
        return cls(f"{before}/{name[0]}".removeprefix("/"), key[1] if key else member) if found else None
