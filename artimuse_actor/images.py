"""Bytes → the pixels the model sees, or a reason why not.

The default is exactly the published preprocessing: Pillow's RGB conversion, then a bicubic resize to 448×448 that does
not keep the aspect ratio and does not turn the picture by its EXIF tag. Whatever changes a pixel is an option that
goes into the fingerprint; limits are checked on the header, before anything is decoded. Only the first frame is ever
looked at. How long a decoder may take, and how much memory, is for `decoder_limits` and `child_decoder`.

Source: ArtiMuse, `load_image` at 750d980.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from scipy import fft

from artimuse_actor.errors import ImageError, UsageError

IMAGE_SIZE: Final = 448
PIXEL_BYTES: Final = IMAGE_SIZE * IMAGE_SIZE * 3

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM")
"""What Pillow decodes in its own code or well-kept libraries; never a format that starts another program.

MPO, the many pictures in one file of some cameras and phones, is opened by the JPEG reader.
"""

Image.init()  # `Image.open` looks formats up among the plugins loaded so far, and `init` loads them all

# Of formats that Pillow does not know; (offset, magic, name).
_FOREIGN_MAGIC: Final = (
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypheix", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"%PDF", "PDF"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "SVG or other XML"),
)

_MAX_BOXES: Final = 1_000  # a file of nothing but empty boxes would be walked through for seconds

# Of what stands before the pixels. Pillow walks through it in Python, about a microsecond a piece, and keeps it: a file
# of nothing but empty chunks, segments, blocks or fill bytes would take minutes. Photos have tens of pieces; the
# largest profiles, XMP packets and depth maps take thousands, and some tens of megabytes.
_MAX_HEADER_READS: Final = 100_000
_MAX_HEADER_BYTES: Final = 64 * 1024 * 1024
_EXIF_WEIGHT: Final = 16  # its segments are joined one by one, in quadratic time; cameras write one, of 64 kB at most

DecodeMode = Literal["exact", "fast"]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class DecodeOptions:
    """How images are read.

    Attributes:
        decode: `exact` is the published preprocessing; `fast` lets the JPEG decoder shrink while it reads, to no less
            than twice the target size: 2.5 times quicker at 12 megapixels, pixels move by 0.23 of 255 on average.
        allow_truncated: read files that end too early, grey below the cut, as the published data set evaluation does.
        exif_rotate: turn the picture as its EXIF tag says; the published code does not.
        max_bytes: size of the largest file that is read.
        max_pixels: width × height of the largest picture that is decoded; the default is where Pillow, and so the
            published code, refuses.
        decoder_timeout_s: how long a job lets one picture be decoded; a lossless JPEG 2000 of the default `max_pixels`
            takes half of the default.
        decoder_memory_bytes: how much memory a job lets the decoder of one picture take; the default is enough for the
            default `max_pixels` in JPEG 2000, which takes most: 20 bytes a pixel.
    """

    decode: DecodeMode = "exact"
    allow_truncated: bool = False
    exif_rotate: bool = False
    max_bytes: int = 512 * 1024 * 1024
    max_pixels: int = 178_956_970
    decoder_timeout_s: float = 60.0
    decoder_memory_bytes: int = 4 * 1024**3

    def __post_init__(self) -> None:
        if self.decode not in get_args(DecodeMode):
            raise UsageError(f"--decode takes {' or '.join(get_args(DecodeMode))}, not {self.decode!r}.")
        if self.max_bytes < 1 or self.max_pixels < 1:
            raise UsageError("--max-bytes and --max-pixels take whole numbers from 1.")
        if not 0 < self.decoder_timeout_s < math.inf:
            raise UsageError(f"--decoder-timeout takes a number of seconds above 0, not {self.decoder_timeout_s}.")
        if self.decoder_memory_bytes < 1:
            raise UsageError("--decoder-memory takes a whole number of bytes from 1.")

    @property
    def version(self) -> str:
        """The preprocessing as the fingerprint shows it: all that changes a pixel, and no limit."""
        extras = [
            "fast-decode" if self.decode == "fast" else "",
            "allow-truncated" if self.allow_truncated else "",
            "exif-rotate" if self.exif_rotate else "",
        ]
        return "+".join(["rgb-bicubic-448/1", *filter(None, extras)])


@dataclass(frozen=True)
class DecodedImage:
    """One picture, ready for the model.

    Attributes:
        pixels: (448, 448, 3) uint8, RGB.
        width: of the file, in pixels, before any rotation.
        height: likewise.
        format: Pillow's name of the file format.
        phash: 64-bit perceptual hash as 16 hexadecimal digits.
    """

    pixels: Pixels
    width: int
    height: int
    format: str
    phash: str


def decode_image(data: bytes, options: DecodeOptions = DecodeOptions()) -> DecodedImage:
    """Decode the first frame of an image file.

    Args:
        data: the whole file.
        options: see `DecodeOptions`.

    Raises:
        ImageError: there is no picture to be had from these bytes.
    """
    if not data:
        raise ImageError("empty", "The file has no bytes.")
    if len(data) > options.max_bytes:
        raise file_too_large(len(data), options.max_bytes)
    # Pillow refuses pictures above twice this number by itself, which a larger --max-pixels must be able to lift.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, -(-options.max_pixels // 2))
    # Read by Pillow at every load and a setting of the whole process; one process reads with one set of options.
    ImageFile.LOAD_TRUNCATED_IMAGES = options.allow_truncated
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; a picture either decodes or does not
        try:
            return _decode(data, options)
        except MemoryError:
            raise _out_of_memory() from None


def _decode(data: bytes, options: DecodeOptions) -> DecodedImage:
    image = _open(data, options)
    try:
        width, height, file_format = image.width, image.height, image.format or "unknown"
        if options.decode == "fast" and file_format in ("JPEG", "MPO"):
            image.draft(None, (2 * IMAGE_SIZE, 2 * IMAGE_SIZE))
        pixels = to_pixels(image, options)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise what they like: OSError, SyntaxError, struct.error, …
        raise _decoding_failed(data, image.format, error, options) from error
    finally:
        image.close()
    return DecodedImage(pixels, width, height, file_format, perceptual_hash(pixels))


def opened_to_pixels(image: Image.Image, options: DecodeOptions) -> Pixels:
    """A picture that somebody else opened, perhaps without having read it, as (448, 448, 3) uint8, RGB.

    Raises:
        ImageError: its file turns out to be truncated or corrupt, or does not fit into memory.
    """
    try:
        return to_pixels(image, options)
    except MemoryError:
        raise _out_of_memory() from None
    except Exception as error:  # as in `decode_image`
        raise _decoding_failed(None, image.format, error, options) from error


def to_pixels(image: Image.Image, options: DecodeOptions = DecodeOptions()) -> Pixels:
    """An opened picture as (448, 448, 3) uint8, RGB: the published preprocessing."""
    if options.exif_rotate:
        image = ImageOps.exif_transpose(image)
    resized = image.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.uint8)


def perceptual_hash(pixels: Pixels) -> str:
    """The 64-bit DCT hash ("pHash") of a picture; near-duplicates differ in few bits.

    Args:
        pixels: (448, 448, 3) uint8.

    Returns:
        16 hexadecimal digits: of the 8×8 lowest frequencies of the grey picture of 32×32 means, row by row, whether
        each is above their median.
    """
    # Means of 14×14 pixels: ten times quicker than a Lanczos resize, and the low frequencies are the same.
    grey = Image.fromarray(pixels).convert("L").reduce(IMAGE_SIZE // 32)
    low = cast("NDArray[np.float64]", fft.dctn(np.asarray(grey, dtype=np.float64)))[:8, :8]
    bits: NDArray[np.bool_] = low > np.median(low)
    return np.packbits(bits).tobytes().hex()


def file_too_large(size_bytes: int, max_bytes: int) -> ImageError:
    """The error of a file above the limit, for all who read one."""
    return ImageError(
        "too_large", f"The file has {size_bytes:,} bytes, the limit is {max_bytes:,}. Raise it with --max-bytes."
    )


def _out_of_memory() -> ImageError:
    return ImageError("decoder_memory", "Decoding it takes more memory than there is.", retryable=True)


class _EndlessHeaderError(Exception):
    pass


class _HeaderReader(io.BytesIO):
    """A file of which only so much may be read, in so many pieces, before its header is done."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads_left: float = _MAX_HEADER_READS
        # Photoshop keeps its layers among the tags of a TIFF file, hundreds of megabytes of them.
        self.bytes_left: float = math.inf if data[:2] in (b"II", b"MM") else _MAX_HEADER_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.reads_left -= 1
        if size is not None and size >= 0:  # otherwise the whole file, for a library that parses it
            self.bytes_left -= len(data) * (_EXIF_WEIGHT if data[:6] == b"Exif\0\0" else 1)
        if self.reads_left < 0 or self.bytes_left < 0:
            raise _EndlessHeaderError
        return data

    def header_done(self) -> None:
        self.reads_left = self.bytes_left = math.inf


def _open(data: bytes, options: DecodeOptions) -> Image.Image:
    file = _HeaderReader(data)
    try:
        image = Image.open(file, formats=FORMATS)
        file.header_done()
    except MemoryError:
        raise
    except _EndlessHeaderError:
        raise ImageError(
            "too_large",
            f"What stands before its pixels has more than {_MAX_HEADER_READS:,} pieces, {_MAX_HEADER_BYTES:,} bytes or "
            f"{_MAX_HEADER_BYTES // _EXIF_WEIGHT:,} bytes of EXIF. Save it anew without metadata.",
        ) from None
    except Image.DecompressionBombError as error:
        pixels = next(iter(re.findall(r"\d{4,}", str(error))), "Too many")
        raise _too_many_pixels(pixels, options) from error
    except Exception as error:
        raise _opening_failed(data, error, options) from error
    if image.width * image.height > options.max_pixels:
        image.close()
        raise _too_many_pixels(f"{image.width} × {image.height}", options)
    return image


def _too_many_pixels(pixels: str, options: DecodeOptions) -> ImageError:
    return ImageError(
        "too_large", f"{pixels} pixels are above the limit of {options.max_pixels:,}. Raise it with --max-pixels."
    )


def _opening_failed(data: bytes, error: Exception, options: DecodeOptions) -> ImageError:
    name = _format_by_magic(data)
    if name in FORMATS:
        return _decoding_failed(data, name, error, options)
    if name:
        return ImageError(
            "unsupported_format", f"The file is {name}, which is not read here. Convert it to JPEG or PNG."
        )
    return ImageError("not_an_image", f"The file starts with {data[:16]!r}, which no image format does.")


def _decoding_failed(
    data: bytes | None, file_format: str | None, error: Exception, options: DecodeOptions
) -> ImageError:
    if "MAX_TEXT" in str(error):  # 1 MiB for a text or a profile, 64 MiB for all texts
        return ImageError("too_large", "Its texts or its colour profile unpack to too much. Save it anew without them.")
    if "truncated" not in str(error).lower() and (data is None or not _ends_early(data, file_format)):
        return ImageError("corrupt", f"The {file_format} file cannot be decoded: {_one_line(error)}.")
    size = "" if data is None else f" ({len(data):,} bytes)"
    if options.allow_truncated or file_format in ("WEBP", "AVIF"):
        help_ = "Too little of it is there to be decoded."
    else:
        help_ = "--allow-truncated scores what is there, grey below the cut."
    return ImageError("truncated", f"The {file_format} file ends too early{size}. {help_}")


def _ends_early(data: bytes, file_format: str | None) -> bool:
    """Whether the end that the format promises is not there."""
    if file_format in ("JPEG", "MPO"):
        return b"\xff\xd9" not in data[-1024:]
    if file_format == "PNG":
        return b"IEND" not in data[-64:]
    if file_format == "WEBP":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if file_format == "BMP":
        return len(data) < int.from_bytes(data[2:6], "little")
    if file_format == "GIF":
        return not data.rstrip(b"\0").endswith(b";")
    if file_format == "JPEG2000":
        return b"\xff\xd9" not in data[-64:]
    if file_format == "TIFF":
        return _directory_ends_early(data)
    if file_format == "AVIF":
        return _boxes_end_early(data)
    return False


def _directory_ends_early(data: bytes) -> bool:
    """Whether the first directory of a TIFF file, which often is the last thing in it, lies beyond its end."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    if 43 in data[2:4]:  # BigTIFF
        return len(data) < int.from_bytes(data[8:16], order) + 8
    start = int.from_bytes(data[4:8], order)
    entries = int.from_bytes(data[start : start + 2], order)
    return len(data) < start + 2 + 12 * entries + 4


def _boxes_end_early(data: bytes) -> bool:
    """Whether the last box of an ISO media file says that it is longer than the file."""
    offset = 0
    for _ in range(_MAX_BOXES):
        size = int.from_bytes(data[offset : offset + 4], "big")
        if size == 1:
            size = int.from_bytes(data[offset + 8 : offset + 16], "big")
        if size < 8 or offset + size == len(data):  # 0: up to the end of the file
            return False
        offset += size
        if offset > len(data):
            return True
    return False


def _format_by_magic(data: bytes) -> str | None:
    head = data[:64]
    for offset, magic, name in _FOREIGN_MAGIC:
        if (
            head[offset:].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(magic)
            if magic[:1] == b"<"
            else head[offset:].startswith(magic)
        ):
            return name
    for name, accept in _pillow_accepts().items():
        try:
            accepted = accept(head[:16])
        except Exception:  # an accept function that needs more bytes than there are
            continue
        if accepted and not isinstance(accepted, str):
            return name
    return None


@lru_cache(maxsize=1)
def _pillow_accepts() -> dict[str, Any]:
    Image.init()
    accepts = {name: accept for name, (_, accept) in Image.OPEN.items() if accept is not None}
    return {name: accepts[name] for name in (*FORMATS, *accepts) if name in accepts}


def _one_line(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # Pillow names the object it read from, address and all
        return "its header makes no sense, or is of a kind that Pillow does not read"
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
