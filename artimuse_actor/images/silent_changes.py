"""What the published preprocessing changes silently: the names in the column `warning`, and how each is found.

All of it is in the header or in pixels that are decoded already. A picture is scored whatever its metadata hold, so
what cannot be read there is no error.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Final

import numpy as np
from PIL import ExifTags, Image, ImageCms

CLIPPED_MODES: Final = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
"""Pillow's modes of one wide number a pixel. In pictures of three, Pillow takes the high byte, as it should."""

_NO_ANIMATIONS: Final = ("MPO",)  # its further pictures are previews, depths and brightness of the first
_PROFILE_LEVELS: Final = 3.0
_LARGEST_PROFILE: Final = 4 * 1024 * 1024  # those of presses have 2 MiB


def silent_changes(image: Image.Image) -> Iterator[str]:
    """Warnings about a decoded picture that is converted to RGB as published and not turned."""
    found: tuple[tuple[str, Callable[[Image.Image], bool]], ...] = (
        ("clipped_16_bit", lambda image: image.mode in CLIPPED_MODES),
        ("exif_rotated", lambda image: orientation_of(image) != 1),
        ("colour_profile", has_other_profile),
        ("cmyk", lambda image: image.mode == "CMYK"),
        ("alpha_dropped", is_partly_transparent),
        ("first_frame", is_first_of_several),
    )
    for warning, is_so in found:
        try:
            if is_so(image):
                yield warning
        except MemoryError:
            raise
        except Exception:  # odd metadata raise any type
            continue


def orientation_of(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 is upright, and what a picture without a valid one has.

    A TIFF is upright once it is decoded: Pillow turns it, also in the published code.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except MemoryError:
        raise
    except Exception:
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def has_other_profile(image: Image.Image) -> bool:
    """Whether its file has a colour profile that changes what is seen, or that cannot be read."""
    profile = image.info.get("icc_profile")
    return profile is not None and profile != b"" and not is_srgb(profile)


def is_srgb(profile: bytes) -> bool:
    """Whether an ICC profile changes colours by less than 3 of 255 levels on average.

    Measured on its effect, since there are many spellings of sRGB: lookup tables, parametric curves, a gamma of 2.2
    (1.3 levels, and 2.0 in grey). Display P3 moves colours by 10 levels, Adobe RGB by 11.
    """
    return len(profile) <= _LARGEST_PROFILE and _is_srgb(profile)


@lru_cache(maxsize=16)  # a library has few, and each takes milliseconds
def _is_srgb(profile: bytes) -> bool:
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        before = _patches(opened.profile.xcolor_space.strip())
        if before is None:
            return False
        after = ImageCms.profileToProfile(
            before, opened, ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB"
        )
    except MemoryError:
        raise
    except Exception:  # not only PyCMSError: an OSError if it is no profile at all
        return False
    assert after is not None
    moved = np.asarray(after).astype(np.int16) - np.asarray(before.convert("RGB"))
    return bool(np.abs(moved).mean() < _PROFILE_LEVELS)


def _patches(colour_space: str) -> Image.Image | None:
    """Colours from all over a space; None of one that RGB is not converted to without a profile."""
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    if colour_space == "RGB":
        return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3))
    return Image.fromarray(np.arange(256, dtype=np.uint8)[None]) if colour_space == "GRAY" else None


def is_partly_transparent(image: Image.Image) -> bool:
    """Whether any pixel is not opaque; most pictures with an alpha channel, such as screenshots, have none that is."""
    if not image.has_transparency_data:
        return False
    with_alpha = image if image.getbands()[-1] in ("A", "a") else image.convert("RGBA")
    alpha = with_alpha.getchannel(len(with_alpha.getbands()) - 1)
    return alpha.getextrema() != (255, 255)


def is_first_of_several(image: Image.Image) -> bool:
    """Whether it is an animation, or has further pages."""
    return image.format not in _NO_ANIMATIONS and bool(getattr(image, "is_animated", False))
