"""ICC profiles of pictures: whether one is sRGB in effect, and what a picture looks like with it.

Profiles come with the pictures of strangers; one that little cms does not read, or that is of no use for its picture,
is called bad here and is no error.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any, Final

import numpy as np
from PIL import Image, ImageCms

_SAME_LEVELS: Final = 3.0
_LARGEST_BYTES: Final = 4 * 1024 * 1024  # those of presses have 2 MiB
_MODES: Final = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


@lru_cache(maxsize=16)  # a library has few, and each takes milliseconds
def is_srgb(profile: bytes) -> bool:
    """Whether an ICC profile changes colours by less than 3 of 255 levels on average; False if it is bad.

    Measured on its effect, since there are many spellings of sRGB: lookup tables, parametric curves, a gamma of 2.2
    (1.3 levels, and 2.0 in grey). Display P3 moves colours by 10 levels, Adobe RGB by 11.
    """
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    cube = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3))
    before = cube if _mode(profile) == "RGB" else Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    after = with_profile(before, profile)  # None of CMYK
    if after is None:
        return False
    moved = np.asarray(after).astype(np.int16) - np.asarray(before.convert("RGB"))
    return bool(np.abs(moved).mean() < _SAME_LEVELS)


def with_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """A picture of mode L, RGB or CMYK as it looks with an ICC profile, in sRGB; None if the profile is bad."""
    found, mode = _transform(profile), _mode(profile)
    if found is None or mode is None:
        return None
    if (image.mode, mode) == ("L", "RGB"):
        image = image.convert("RGB")
    if image.mode != mode:
        return None
    try:
        return ImageCms.applyTransform(image, found)
    except ImageCms.PyCMSError:
        return None


@lru_cache(maxsize=16)
def _transform(profile: bytes) -> Any:
    """What turns a profile's colours into sRGB; None if there is no such thing."""
    opened, mode = _opened(profile), _mode(profile)
    if opened is None or mode is None:
        return None
    try:
        return ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.PERCEPTUAL)
    except ImageCms.PyCMSError:
        return None


def _mode(profile: bytes) -> str | None:
    """Pillow's mode of the pictures that a profile is for."""
    opened = _opened(profile)
    return None if opened is None else _MODES.get(opened.profile.xcolor_space.strip())


@lru_cache(maxsize=16)
def _opened(profile: bytes) -> Any:
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile)) if len(profile) <= _LARGEST_BYTES else None
    except (ImageCms.PyCMSError, OSError):
        return None
