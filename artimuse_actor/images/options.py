"""Options of image decoding, and the shape of its result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from artimuse_actor.errors import UsageError

IMAGE_SIZE: Final = 448
PIXEL_BYTES: Final = IMAGE_SIZE * IMAGE_SIZE * 3
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "HEIF", "JXL", "JPEG2000", "PPM")
"""Formats that Pillow and its plugins decode with their own code or well-maintained libraries; none that starts another
program.

MPO, the many pictures in one file of some cameras and phones, is opened by the JPEG reader.
"""
_PHOTO: Final = "photo/1"
DecodeMode = Literal["exact", "fast"]
Preprocessing = Literal["published", "photo"]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class DecodeOptions:
    """Options for decoding images.

    Attributes:
        decode: `exact` is the published preprocessing; `fast` lets the JPEG decoder shrink while it reads, to no less
            than twice the target size: 2.5 times quicker at 12 megapixels, pixels move by 0.23 of 255 on average.
        allow_truncated: read files that end too early, grey below the cut, as the published data set evaluation does.
        exif_rotate: turn the picture as its EXIF tag says; the published code does not. Part of `photo`.
        max_bytes: size of the largest file that is read.
        max_pixels: width × height of the largest picture that is decoded; the default is where Pillow, and so the
            published code, refuses.
        decoder_timeout_s: how long a job lets one picture be decoded; a lossless JPEG 2000 of the default `max_pixels`
            takes half of the default.
        decoder_memory_bytes: how much memory a job lets the decoder of one picture take; the default is enough for the
            default `max_pixels` in JPEG 2000, which takes most: 20 bytes a pixel.
        preprocess: `published`, or `photo` for the picture that a person sees, see `preprocess`.
        longest_side: for people, not for the model: the picture keeps its shape, and no side is longer than so many
            pixels; nothing is enlarged. None for the model's square.
    """

    decode: DecodeMode = "exact"
    allow_truncated: bool = False
    exif_rotate: bool = False
    max_bytes: int = 512 * 1024 * 1024
    max_pixels: int = 178_956_970
    decoder_timeout_s: float = 60.0
    decoder_memory_bytes: int = 4 * 1024**3
    preprocess: Preprocessing = "published"
    longest_side: int | None = None

    def __post_init__(self) -> None:
        if self.decode not in get_args(DecodeMode):
            raise UsageError(f"--decode takes {' or '.join(get_args(DecodeMode))}, not {self.decode!r}.")
        if self.preprocess not in get_args(Preprocessing):
            raise UsageError(f"--preprocess takes {' or '.join(get_args(Preprocessing))}, not {self.preprocess!r}.")
        if self.max_bytes < 1 or self.max_pixels < 1:
            raise UsageError("--max-bytes and --max-pixels take whole numbers from 1.")
        if not 0 < self.decoder_timeout_s < math.inf:
            raise UsageError(f"--decoder-timeout takes a number of seconds above 0, not {self.decoder_timeout_s}.")
        if self.decoder_memory_bytes < 1:
            raise UsageError("--decoder-memory takes a whole number of bytes from 1.")

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Width and height in pixels of what is made of a picture of this size."""
        if self.longest_side is None:
            return IMAGE_SIZE, IMAGE_SIZE
        scale = min(1.0, self.longest_side / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    @property
    def turns(self) -> bool:
        """Whether pictures are turned upright."""
        return self.exif_rotate or self.preprocess == "photo"

    @property
    def version(self) -> str:
        """The preprocessing as the fingerprint shows it: every option that changes a pixel, and no limits."""
        extras = [
            _PHOTO if self.preprocess == "photo" else "",
            "fast-decode" if self.decode == "fast" else "",
            "allow-truncated" if self.allow_truncated else "",
            "exif-rotate" if self.exif_rotate and self.preprocess == "published" else "",
        ]
        return "+".join(["rgb-bicubic-448/1", *filter(None, extras)])

    @classmethod
    def of_version(cls, version: str) -> DecodeOptions:
        """The options that a fingerprint's preprocessing stands for; limits are the default ones."""
        parts = version.split("+")
        return cls(
            "fast" if "fast-decode" in parts else "exact",
            "allow-truncated" in parts,
            "exif-rotate" in parts,
            preprocess="photo" if _PHOTO in parts else "published",
        )
