"""Small pictures made of a golden one, as files of any format, and how far apart two are as the model sees them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from support.golden import golden_images

from artimuse_actor.images.options import Pixels


def photo(width: int = 300, height: int = 200) -> Image.Image:
    """A golden picture in this size."""
    with Image.open(golden_images()[3]) as image:
        return image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def encode(image: Image.Image, file_format: str, **arguments: Any) -> bytes:
    """A picture as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **arguments)
    return buffer.getvalue()


def small(image: Image.Image) -> Pixels:
    """(448, 448, 3) uint8: a picture by the published preprocessing, written out."""
    return np.asarray(image.convert("RGB").resize((448, 448), Image.Resampling.BICUBIC))


def apart(one: Pixels, other: Pixels) -> float:
    """Mean difference of two pictures, in levels of 0 to 255."""
    return float(np.abs(one.astype(int) - other).mean())
