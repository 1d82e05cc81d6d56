"""Warnings: ways in which the model saw another picture than a person would. Imports nothing, as `text_settings`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

WARNINGS: Final = {
    "clipped_16_bit": "its values of 16 or 32 bits, or floats, were taken for 0 to 255: what lies above is white",
    "exif_rotated": "its EXIF tag says that it is to be turned, and it was not",
    "colour_profile": "it has a colour profile that is not sRGB, or cannot be read, and it was not applied",
    "cmyk": "its four inks were turned into RGB without a colour profile",
    "alpha_dropped": "some of it is transparent, and what lies below the transparency was seen",
    "first_frame": "it is an animation or has several pages, and only the first was seen",
    "truncated": "its file is damaged or ends too early, and what is missing is grey",
}
"""Warning → its meaning, in the order in which a row names several."""

_SEPARATOR: Final = "+"


def join_warnings(names: Iterable[str]) -> str | None:
    """Warnings as a row has them: `alpha_dropped+first_frame`; None if there are none."""
    found = set(names)
    return _SEPARATOR.join(name for name in WARNINGS if name in found) or None


def split_warnings(text: str) -> list[str]:
    """The warnings of a row."""
    return text.split(_SEPARATOR)
