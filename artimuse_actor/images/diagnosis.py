"""Why Pillow could not decode a file: the type and the sentence of its error row.

No sentence quotes the file: a manifest may name any file that this user can read, and others read the table.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from typing import Any, Final, Literal

from PIL import Image, UnidentifiedImageError

from artimuse_actor.errors import ImageError, message_of
from artimuse_actor.images.options import FORMATS, DecodeOptions

# Of formats that Pillow does not know; (offset, magic, name).
_FOREIGN_MAGIC: Final = (
    (0, b"%PDF", "PDF"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "SVG or other XML"),
)
_QUOTED_BYTES: Final = re.compile(r"""b(['"]).*?\1""")
_MAX_BOXES: Final = 1_000  # a file of nothing but empty boxes would be walked through for seconds


def opening_failed(data: bytes, error: Exception, options: DecodeOptions) -> ImageError:
    """The error of a file that Pillow does not open."""
    name = _format_by_magic(data)
    if name in FORMATS:
        return decoding_failed(data, name, error, options)
    if name:
        return unsupported(name)
    return ImageError("not_an_image", "The file starts like no image format.")


def unsupported(name: str) -> ImageError:
    """The error of a file of a format that is known and not read."""
    return ImageError("unsupported_format", f"The file is {name}, which is not read here. Convert it to JPEG or PNG.")


def memory_limit_reached(options: DecodeOptions) -> ImageError:
    """The error of a file that takes more memory than its decoder may have."""
    return ImageError(
        "decoder_memory",
        f"Decoding it takes more than the limit of {options.decoder_memory_bytes:,} bytes of memory. "
        "Raise it with --decoder-memory.",
        by_settings=True,
    )


def raw_without_extra(kind: str) -> ImageError:
    """The error of a camera RAW where LibRaw is not installed."""
    return ImageError(
        "unsupported_format",
        f"The file is {kind}, a camera's RAW. Convert it to JPEG, or install the extra `raw`.",
        by_settings=True,
    )


def decoding_failed(
    data: bytes | None, file_format: str | None, error: Exception, options: DecodeOptions
) -> ImageError:
    """The error of a file whose pixels cannot be decoded."""
    if "MAX_TEXT" in str(error):  # 1 MiB for a text or a profile, 64 MiB for all texts
        return ImageError(
            "too_large", "Its texts or its colour profile unpack to too much. Save it again without them."
        )
    if file_format == "JXL" and data is not None and not _ends_early(data, file_format):
        return ImageError("corrupt", "The JPEG XL file is damaged, or ends too early.")  # its plugin says no more
    if "truncated" not in str(error).lower() and (data is None or not _ends_early(data, file_format)):
        return ImageError("corrupt", f"The {file_format} file cannot be decoded: {_message(error)}.")
    size = "" if data is None else f" ({len(data):,} bytes)"
    if options.allow_truncated or file_format in ("WEBP", "AVIF", "HEIF", "JXL"):
        help_ = "Too little of it is there to be decoded."
    else:
        help_ = "--allow-truncated scores what is there, grey below the cut; in another --out."
    return ImageError("truncated", f"The {file_format} file ends too early{size}. {help_}")


def _ends_early(data: bytes, file_format: str | None) -> bool:
    """True if the end marker of the format is missing."""
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
    if file_format in ("AVIF", "HEIF") or (file_format == "JXL" and data[:1] == b"\0"):
        return _boxes_end_early(data)
    return False


def _directory_ends_early(data: bytes) -> bool:
    """True if the first directory of a TIFF file, often its last part, lies beyond the end of the file."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    if 43 in data[2:4]:  # BigTIFF
        return len(data) < int.from_bytes(data[8:16], order) + 8
    start = int.from_bytes(data[4:8], order)
    entries = int.from_bytes(data[start : start + 2], order)
    return len(data) < start + 2 + 12 * entries + 4


def _boxes_end_early(data: bytes) -> bool:
    """True if the last box of an ISO media file claims to be longer than the file."""
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
    if head[4:12] in (b"ftypmif1", b"ftypmsf1"):  # a container of either, which the brands that follow tell
        return "AVIF" if b"avi" in head[12:] else "HEIF"
    for offset, magic, name in _FOREIGN_MAGIC:
        if (
            head[offset:].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(magic)
            if magic[:1] == b"<"
            else head[offset:].startswith(magic)
        ):
            return name
    if _is_tga(data):
        return "TGA"
    for name, accept in _pillow_accepts().items():
        try:
            accepted = accept(head[:16])
        except Exception:  # an accept function that needs more bytes than there are
            continue
        if accepted and not isinstance(accepted, str):
            return name
    return None


def _is_tga(data: bytes) -> bool:
    """Whether a file is a Targa picture, which shows at its end or in its length, since its first bytes may be any."""
    if data.endswith(b"TRUEVISION-XFILE.\0"):
        return True
    if len(data) < 18 or data[1] not in (0, 1) or data[2] not in (1, 2, 3) or data[16] not in (8, 15, 16, 24, 32):
        return False
    colours, colour_bits, width, height = struct.unpack_from("<HB4xHH", data, 5)
    size = 18 + data[0] + colours * ((colour_bits + 7) // 8) + width * height * ((data[16] + 7) // 8)
    return bool(width and height and size == len(data))


@lru_cache(maxsize=1)
def _pillow_accepts() -> dict[str, Any]:
    Image.init()
    accepts = {name: accept for name, (_, accept) in Image.OPEN.items() if accept is not None}
    return {name: accepts[name] for name in (*FORMATS, *accepts) if name in accepts}


def _message(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # Pillow names the object it read from, address and all
        return "its header makes no sense, or is of a kind that Pillow does not read"
    return _QUOTED_BYTES.sub("…", message_of(error))
