"""Camera RAW files → a picture, with LibRaw (the extra `raw`).

The preview that the camera made, if there is one of half the sensor's width at least; else the sensor's picture,
developed at half its size with the camera's white balance.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final

from PIL import ExifTags, Image

from artimuse_actor.errors import ImageError, message_of

_ORIENTATIONS: Final = {3: 3, 5: 8, 6: 6}
"""LibRaw's `flip` → EXIF's orientation."""


def can_read_raw() -> bool:
    """Whether the extra `raw` is installed."""
    return find_spec("rawpy") is not None


def open_raw(
    data: bytes, kind: str, check_pixels: Callable[[int, int], None], open_preview: Callable[[bytes], Image.Image]
) -> Image.Image:
    """The picture of a camera RAW, as its sensor lies; its orientation is EXIF's of the picture.

    Args:
        data: the whole file.
        kind: see `raw_kind`.
        check_pixels: raises if a sensor of this width and height is too large.
        open_preview: opens a JPEG.

    Raises:
        ImageError: LibRaw cannot read it, or `check_pixels` refuses it.
    """
    import rawpy

    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            check_pixels(raw.sizes.raw_width, raw.sizes.raw_height)
            orientation = _ORIENTATIONS.get(raw.sizes.flip, 1)  # developing it resets `flip`
            image = _preview(raw, open_preview) or _developed(raw)
            image.getexif().setdefault(ExifTags.Base.Orientation, orientation)
            return image
    except rawpy.LibRawFileUnsupportedError:
        raise ImageError(
            "unsupported_format", f"The file is {kind}, of a camera that LibRaw does not know. Convert it to JPEG."
        ) from None
    except rawpy.LibRawError as error:
        raise ImageError("corrupt", f"The {kind} file cannot be developed: {_sentence(error)}.") from error


def _preview(raw: Any, open_preview: Callable[[bytes], Image.Image]) -> Image.Image | None:
    """The camera's own JPEG; None if there is none, or it is small or damaged."""
    import rawpy

    try:
        thumbnail = raw.extract_thumb()
        if thumbnail.format != rawpy.ThumbFormat.JPEG:
            return None
        image = open_preview(bytes(thumbnail.data))
        image.load()
    except MemoryError:
        raise
    except Exception:  # of LibRaw, or of the JPEG
        return None
    return image if 2 * max(image.size) >= max(raw.sizes.width, raw.sizes.height) else None


def _developed(raw: Any) -> Image.Image:
    # user_flip=0: as the sensor lies, as a preview does.
    return Image.fromarray(raw.postprocess(half_size=True, use_camera_wb=True, user_flip=0, output_bps=8))


def _sentence(error: Exception) -> str:
    text = error.args[0] if error.args else ""
    return text.decode("ascii", errors="replace") if isinstance(text, bytes) else message_of(error)
