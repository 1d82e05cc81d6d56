"""Bytes → the pixels the model sees, or an error with the reason.

The default is exactly the published preprocessing, see `preprocess`. Whatever changes a pixel is an option that goes
into the fingerprint; limits are checked on the header, before anything is decoded. Only the first frame is ever looked
at. How long a decoder may take, and how much memory, is for `decoder_limits` and `child_decoder`.
"""

from __future__ import annotations

import io
import math
import re
import threading
import warnings
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageFile

from artimuse_actor.errors import ImageError, file_too_large
from artimuse_actor.images.capture import capture_of
from artimuse_actor.images.diagnosis import (
    decoding_failed,
    memory_limit_reached,
    opening_failed,
    raw_without_extra,
    unsupported,
)
from artimuse_actor.images.jxl_header import jxl_header
from artimuse_actor.images.options import FORMATS, IMAGE_SIZE, DecodeOptions, Pixels
from artimuse_actor.images.perceptual_hash import perceptual_hash
from artimuse_actor.images.plugins import mended, register_plugins
from artimuse_actor.images.preprocess import preprocess
from artimuse_actor.images.raw import can_read_raw, open_raw
from artimuse_actor.images.raw_kind import RAW_KINDS, raw_kind
from artimuse_actor.images.silent_changes import orientation_of
from schemas.warnings import join_warnings

register_plugins()

# Pillow reads LOAD_TRUNCATED_IMAGES at every load, and it is one setting for all threads.
_TRUNCATED_ALLOWED: Final = threading.Lock()

# Of what stands before the pixels. Pillow walks through it in Python, about a microsecond a piece, and keeps it: a file
# of nothing but empty chunks, segments, blocks or fill bytes would take minutes. Photos have tens of pieces; the
# largest profiles, XMP packets and depth maps take thousands, and some tens of megabytes.
_MAX_HEADER_READS: Final = 100_000
_MAX_HEADER_BYTES: Final = 64 * 1024 * 1024
_QUARTER_TURNS: Final = (5, 6, 7, 8)  # values of EXIF's orientation
_JXL_BYTES_A_PIXEL: Final = 24  # 12 were measured; its plugin, in Rust, ends the process when it gets no memory
_EXIF_WEIGHT: Final = 16  # its segments are joined one by one, in quadratic time; cameras write one, of 64 kB at most


@dataclass(frozen=True)
class DecodedImage:
    """One picture, ready for the model.

    Attributes:
        pixels: (448, 448, 3) uint8, RGB; with the option `longest_side` (height, width, 3).
        width: in pixels; of the file, or, if the options turn pictures, of the turned one.
        height: likewise.
        format: Pillow's name of the file format, or the kind of camera RAW.
        phash: 64-bit perceptual hash as 16 hexadecimal digits; empty with the option `longest_side`.
        warning: what a person would see otherwise, see `schemas.warnings`; None if nothing.
        taken_at: when it was taken, see `Capture`.
        camera: with what.
        orientation: how the camera was held.
    """

    pixels: Pixels
    width: int
    height: int
    format: str
    phash: str
    warning: str | None
    taken_at: str | None = None
    camera: str | None = None
    orientation: int | None = None


def decode_image(data: bytes, options: DecodeOptions = DecodeOptions()) -> DecodedImage:
    """Decode the first frame of an image file.

    Args:
        data: the whole file.
        options: see `DecodeOptions`.

    Raises:
        ImageError: these bytes cannot be decoded into a picture.
    """
    if not data:
        raise ImageError("empty", "The file has no bytes.")
    if len(data) > options.max_bytes:
        raise file_too_large(len(data), options.max_bytes)
    # Pillow refuses pictures above twice this number by itself, which a larger --max-pixels must be able to lift.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, -(-options.max_pixels // 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; a picture either decodes or does not
        try:
            if not options.allow_truncated:
                return _decode(data, options)
            with _TRUNCATED_ALLOWED:
                return _decode_as_far_as_it_goes(data, options)
        except MemoryError:
            raise _out_of_memory() from None


def _decode_as_far_as_it_goes(data: bytes, options: DecodeOptions) -> DecodedImage:
    """Decode a file that may end too early; what is whole is decoded once, and gets no warning."""
    try:
        return _decode(data, options)
    except ImageError as error:
        # What a box of HEIC lacks cannot be seen in part: its plugin would give a picture that is black.
        if error.error_type not in ("truncated", "corrupt") or data[4:8] == b"ftyp":
            raise
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        return _decode(data, options, as_far_as_it_goes=True)
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def _decode(data: bytes, options: DecodeOptions, *, as_far_as_it_goes: bool = False) -> DecodedImage:
    image, file, file_format = _open(data, options)
    try:
        width, height = image.size
        capture = capture_of(image) if image.format == "TIFF" else None
        if options.decode == "fast" and image.format in ("JPEG", "MPO"):
            side = options.longest_side or 2 * IMAGE_SIZE
            image.draft(None, (side, side))
        image.load()
        capture = capture or capture_of(image)
        file.header_begins()  # what follows the first frame of an animation
        if options.turns and orientation_of(image) in _QUARTER_TURNS:  # not of a TIFF, which Pillow has turned by now
            width, height = height, width
        pixels, changes = preprocess(image, options)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise any type: OSError, SyntaxError, struct.error, …
        raise decoding_failed(data, image.format, error, options) from error
    finally:
        image.close()
    warning = join_warnings([*changes, *(["truncated"] if as_far_as_it_goes else [])])
    about = capture.taken_at, capture.camera, capture.orientation
    phash = "" if options.longest_side else perceptual_hash(pixels)
    return DecodedImage(pixels, width, height, file_format, phash, warning, *about)


def opened_to_pixels(image: Image.Image, options: DecodeOptions) -> Pixels:
    """A picture that somebody else opened, perhaps without having read it, as (448, 448, 3) uint8, RGB.

    Raises:
        ImageError: its file turns out to be truncated or corrupt, or does not fit into memory.
    """
    try:
        return preprocess(image, options)[0]
    except MemoryError:
        raise _out_of_memory() from None
    except Exception as error:  # as in `decode_image`
        raise decoding_failed(None, image.format, error, options) from error


def _out_of_memory() -> ImageError:
    return ImageError("decoder_memory", "Decoding it takes more memory than there is.", retryable=True)


class _EndlessHeaderError(Exception):
    pass


class _HeaderReader(io.BytesIO):
    """A file with a limit on the bytes and the number of reads before its header is complete."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        # Photoshop keeps its layers among the tags of a TIFF file, hundreds of megabytes of them.
        self._most_bytes: float = math.inf if data[:2] in (b"II", b"MM") else _MAX_HEADER_BYTES
        self.header_begins()

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.reads_left -= 1
        if size is not None and size >= 0:  # otherwise the whole file, for a library that parses it
            self.bytes_left -= len(data) * (_EXIF_WEIGHT if data[:6] == b"Exif\0\0" else 1)
        if self.reads_left < 0 or self.bytes_left < 0:
            raise _EndlessHeaderError
        return data

    def header_begins(self) -> None:
        self.reads_left: float = _MAX_HEADER_READS
        self.bytes_left: float = self._most_bytes

    def header_done(self) -> None:
        self.reads_left = self.bytes_left = math.inf


def _open(data: bytes, options: DecodeOptions) -> tuple[Image.Image, _HeaderReader, str]:
    """A picture within the limits, not decoded yet, what it is read from, and the name of its format."""
    if kind := raw_kind(data):
        return _open_raw(data, kind, options)
    if header := jxl_header(data):  # its plugin decodes when it opens
        _check_pixels(header.width, header.height, options)
        if header.is_animated:
            raise unsupported("an animated JPEG XL")
        if header.width * header.height * _JXL_BYTES_A_PIXEL > options.decoder_memory_bytes:
            raise memory_limit_reached(options)
    file = _HeaderReader(data)
    try:
        image = mended(Image.open(file, formats=FORMATS))
        file.header_done()
    except MemoryError:
        raise
    except _EndlessHeaderError:
        raise ImageError(
            "too_large",
            f"What stands before its pixels has more than {_MAX_HEADER_READS:,} pieces, {_MAX_HEADER_BYTES:,} bytes or "
            f"{_MAX_HEADER_BYTES // _EXIF_WEIGHT:,} bytes of EXIF. Save it again without metadata.",
        ) from None
    except Image.DecompressionBombError as error:
        pixels = next(iter(re.findall(r"\d{4,}", str(error))), "Too many")
        raise _too_many_pixels(pixels, options) from error
    except Exception as error:
        raise opening_failed(data, error, options) from error
    try:
        _check_pixels(image.width, image.height, options)
    except ImageError:
        image.close()
        raise
    return image, file, image.format or "unknown"


def _open_raw(data: bytes, kind: str, options: DecodeOptions) -> tuple[Image.Image, _HeaderReader, str]:
    if kind not in RAW_KINDS:
        raise unsupported(kind)
    if not can_read_raw():
        raise raw_without_extra(kind)
    image = open_raw(
        data,
        kind,
        lambda width, height: _check_pixels(width, height, options),
        lambda preview: _open(preview, options)[0],
    )
    return image, _HeaderReader(b""), kind


def _check_pixels(width: int, height: int, options: DecodeOptions) -> None:
    if width * height > options.max_pixels:
        raise _too_many_pixels(f"{width} × {height}", options)


def _too_many_pixels(pixels: str, options: DecodeOptions) -> ImageError:
    return ImageError(
        "too_large",
        f"{pixels} pixels are above the limit of {options.max_pixels:,}. Raise it with --max-pixels.",
        by_settings=True,
    )
