"""What the published preprocessing changes silently: the names in the column `warning`, and how each is found.

All of it is in the header or in pixels that are decoded already. A picture is scored whatever its metadata hold, so
what cannot be read there is no error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from PIL import ExifTags, Image

from artimuse_actor.images.colour_profile import is_srgb

CLIPPED_MODES: Final = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
"""Pillow's modes of one wide number a pixel. In pictures of three, Pillow takes the high byte, as it should."""

_NO_ANIMATIONS: Final = ("MPO", "HEIF")  # further pictures are previews, depths and brightness of the one that is shown
_SRGB_PRIMARIES: Final = (1, 2)  # of ITU-T H.273: BT.709, and unspecified
_HDR_CURVES: Final = (16, 18)  # PQ and HLG


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
    if (profile := profile_of(image)) is not None:
        return not is_srgb(profile)
    told = image.info.get("nclx_profile")  # of HEIC: numbers in place of a profile
    return isinstance(told, dict) and (
        told["color_primaries"] not in _SRGB_PRIMARIES or told["transfer_characteristics"] in _HDR_CURVES
    )


def profile_of(image: Image.Image) -> bytes | None:
    """The ICC profile of its file."""
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) and profile else None


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
