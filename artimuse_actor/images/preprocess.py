"""An opened picture → the pixels the model sees.

Published: Pillow's RGB conversion, then a bicubic resize to 448×448 that does not keep the aspect ratio and does not
turn the picture by its EXIF tag.

Source: ArtiMuse, `load_image` at 750d980.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image

from artimuse_actor.images.options import IMAGE_SIZE, DecodeOptions, Pixels
from artimuse_actor.images.silent_changes import orientation_of, silent_changes

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


def preprocess(image: Image.Image, options: DecodeOptions) -> tuple[Pixels, list[str]]:
    """An opened picture as (448, 448, 3) uint8, RGB, and the warnings about it."""
    resized = _turned(image, options).convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    changes = [change for change in silent_changes(image) if change != "exif_rotated" or not options.exif_rotate]
    return np.asarray(resized, dtype=np.uint8), changes


def _turned(image: Image.Image, options: DecodeOptions) -> Image.Image:
    if not options.exif_rotate:
        return image
    image.load()  # after which a TIFF is upright
    turn = _UPRIGHT.get(orientation_of(image))
    return image if turn is None else image.transpose(turn)
