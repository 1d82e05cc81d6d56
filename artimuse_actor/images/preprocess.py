"""An opened picture → the pixels the model sees.

`published`: Pillow's RGB conversion, then a bicubic resize to 448×448 that does not keep the aspect ratio and does not
turn the picture by its EXIF tag. Source: ArtiMuse, `load_image` at 750d980.

`photo`: what a person sees, in the same size. Wide numbers are scaled to 8 bits by their range, transparent parts lie
over white, the colour profile is converted to sRGB, and the picture is turned by its EXIF tag. The picture is resized
first, with its alpha channel and in its own colours, so that the rest costs little, however large it is.

For people, both give it in its own shape, see `DecodeOptions.longest_side`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image

from artimuse_actor.images.colour_profile import is_srgb, with_profile
from artimuse_actor.images.options import DecodeOptions, Pixels
from artimuse_actor.images.silent_changes import CLIPPED_MODES, orientation_of, profile_of, silent_changes

_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation → what makes such a picture upright."""


def to_pixels(image: Image.Image, options: DecodeOptions = DecodeOptions()) -> Pixels:
    """An opened picture as (448, 448, 3) uint8, RGB."""
    return preprocess(image, options)[0]


def preprocess(image: Image.Image, options: DecodeOptions) -> tuple[Pixels, set[str]]:
    """An opened picture as (448, 448, 3) uint8, RGB, or in its own shape for people; and the warnings about it."""
    if options.preprocess == "photo":
        return _photo(image, options)
    seen = _upright(image) if options.exif_rotate else image
    size = options.size_of(*seen.size)
    pixels = np.asarray(seen.convert("RGB").resize(size, Image.Resampling.BICUBIC), dtype=np.uint8)
    return pixels, set(silent_changes(image)) - ({"exif_rotated"} if options.exif_rotate else set())


def _photo(image: Image.Image, options: DecodeOptions) -> tuple[Pixels, set[str]]:
    image.load()
    changes = set(silent_changes(image)) - {"clipped_16_bit", "alpha_dropped", "exif_rotated"}
    size = options.size_of(*image.size)
    small = _over_white(_interpolable(image).resize(size, Image.Resampling.BICUBIC))
    if profile := profile_of(image):
        converted = small if is_srgb(profile) else with_profile(small, profile)
        if converted is not None:
            small, changes = converted, changes - {"colour_profile", "cmyk"}
    turn = _UPRIGHT.get(orientation_of(image))
    upright = small if turn is None else small.transpose(turn)
    return np.asarray(upright.convert("RGB"), dtype=np.uint8), changes


def _interpolable(image: Image.Image) -> Image.Image:
    """A picture in a mode whose pixels can be averaged: L, LA, RGB, RGBA or CMYK."""
    if image.mode in CLIPPED_MODES:
        return _eight_bits(image)
    if image.mode == "CMYK":
        return image
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        return image.convert("LA" if grey else "RGBA")
    return image.convert("L" if grey else "RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Wide numbers as 8 bits: 0 is black, and the end of their range white.

    Pillow does not say how wide integers of mode I were: white is the least usual one that no value exceeds. Of floats
    it is 1, or the largest value.
    """
    values = np.asarray(image)
    if image.mode == "F":
        values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
        whites = [1.0]
    elif image.mode == "I":
        values = values.view(np.uint32)  # Pillow's are signed, whatever the file's
        whites = [65535.0, 2.0**31 - 1, 2.0**32 - 1]
    else:
        whites = [65535.0]
    brightest = float(values.max())
    white = next((white for white in whites if brightest <= white), brightest)
    scaled = values.astype(np.float32)
    scaled *= 255 / white
    scaled += 0.5
    return Image.fromarray(np.clip(scaled, 0, 255, out=scaled).astype(np.uint8))


def _over_white(image: Image.Image) -> Image.Image:
    """A picture without its alpha channel, if it has one: over white, as on a page."""
    if image.mode not in ("LA", "RGBA"):
        return image
    opaque = image.mode[:-1]
    return Image.composite(image.convert(opaque), Image.new(opaque, image.size, "white"), image.getchannel("A"))


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # after which a TIFF is upright
    turn = _UPRIGHT.get(orientation_of(image))
    return image if turn is None else image.transpose(turn)
