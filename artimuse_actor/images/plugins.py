"""Formats that plugins of Pillow's read: HEIC and HEIF (pillow-heif), and JPEG XL (pillow-jxl-plugin).

HEIC is upright once it is opened: the container says how its picture is to be turned, libheif does so, and EXIF's tag
counts for nothing. JPEG XL is the same, unless it holds a JPEG file, which is put together again and turned as ever.
"""

from __future__ import annotations

import pillow_heif
from PIL import ExifTags, Image
from pillow_jxl import JpegXLImagePlugin


def register_plugins() -> None:
    """Let `Image.open` know all formats, its own and those of plugins."""
    Image.init()  # `Image.open` looks formats up among the plugins loaded so far, and `init` loads them all
    # One thread each: a task has one CPU, and the memory of further ones would not count as the decoder's.
    pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False)
    JpegXLImagePlugin.DECODE_THREADS = 0


def mended(image: Image.Image) -> Image.Image:
    """An opened picture without metadata that its format says are not to be followed."""
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        try:
            image.getexif().pop(ExifTags.Base.Orientation, None)
        except MemoryError:
            raise
        except Exception:  # odd metadata raise any type
            image.info.pop("exif", None)
    return image
