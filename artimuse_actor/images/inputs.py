"""Pictures as Python code has them: files, bytes, opened pictures and arrays → pixels."""

from __future__ import annotations

import os
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from artimuse_actor.errors import ImageError, UsageError
from artimuse_actor.fetch.fetch import fetch
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.images.decode import decode_image, opened_to_pixels
from artimuse_actor.images.options import IMAGE_SIZE, DecodeOptions, Pixels
from artimuse_actor.images.preprocess import to_pixels

ImageInput: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
"""A path or uri, the bytes of a file, an opened picture, or a (height, width[, 3 or 4]) uint8 array."""


def input_pixels(image: ImageInput, options: DecodeOptions) -> Pixels:
    """The (448, 448, 3) uint8 pixels of a picture.

    Raises:
        ImageError: it cannot be read; the message names it.
        UsageError: an array of another shape or dtype.
    """
    try:
        if isinstance(image, Image.Image):
            return opened_to_pixels(image, options)
        if isinstance(image, np.ndarray):
            return _array_to_pixels(image, options)
        allowed = FetchOptions(max_bytes=options.max_bytes)
        data = image if isinstance(image, bytes) else fetch(os.fspath(image), allowed)
        return decode_image(data, options).pixels
    except ImageError as error:
        name = f"{len(image)} bytes" if isinstance(image, bytes) else str(getattr(image, "filename", "") or image)
        raise ImageError(error.error_type, f"{name}: {error.message}", retryable=error.retryable) from error


def _array_to_pixels(array: NDArray[np.uint8], options: DecodeOptions) -> Pixels:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)) or not array.size:
        raise UsageError(
            "An array of one picture is (height, width), (height, width, 3) or (height, width, 4) uint8, "
            f"not {array.shape} {array.dtype}."
        )
    return array if array.shape == (IMAGE_SIZE, IMAGE_SIZE, 3) else to_pixels(Image.fromarray(array), options)
