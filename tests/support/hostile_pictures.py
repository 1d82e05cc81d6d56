"""Small files that ask for much: memory, time, or a walk through millions of pieces."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from PIL import Image
from support.colour_profiles import adobe_rgb
from support.raw_files import dng

from artimuse_actor.images.plugins import register_plugins

register_plugins()

MANY: Final = 1_000_000
ANIMATED_JXL: Final = base64.b64decode(
    "/wrLBAFYUFwSCAigAgAAcABLGIsVANQTYzB+LiABgCBZAwAgpX8AQT+agsgfCAigAgAAaABLGIsVABw+xuD4v4AEAAAE/gKABP79jm7mAAgIoEIA"
    "AEwASxiLFYBd/P8CEgC0lAoAeBf5Aw=="
)
"""Three frames of 64×48, of cjxl 0.7: red, green and blue."""


def _encoded(file_format: str, size: tuple[int, int] = (64, 64), **arguments: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 100, 50)).save(buffer, file_format, **arguments)
    return buffer.getvalue()


# PNG


def _chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(
    before: bytes = b"", after: bytes = b"", size: tuple[int, int] = (64, 64), pixels: bytes | None = None
) -> bytes:
    """A grey picture with further chunks before and after its pixels."""
    header = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(size[1] * (size[0] + 1))) if pixels is None else pixels
    image = _chunk(b"IHDR", header) + before + _chunk(b"IDAT", pixels) + after
    return b"\x89PNG\r\n\x1a\n" + image + _chunk(b"IEND")


@cache
def _zeros(size_bytes: int) -> bytes:
    """As `zlib.compress` makes it of so many zeros, of one megabyte's block again and again: that takes no time."""
    packer = zlib.compressobj(9, wbits=-15)
    megabyte = packer.compress(bytes(1_000_000)) + packer.flush(zlib.Z_FULL_FLUSH)
    times, rest = divmod(size_bytes, 1_000_000)
    assert not rest
    return b"\x78\xda" + megabyte * times + b"\3\0" + struct.pack(">L", size_bytes % 65_521 << 16 | 1)  # Adler-32


# JPEG


def _jpeg(segments: bytes, **arguments: Any) -> bytes:
    """A picture with further segments at its start."""
    data = _encoded("JPEG", **arguments)
    return data[:2] + segments + data[2:]


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def _exif_of_overlapping_tags() -> bytes:
    """5,000 tags, each of which claims the same 60 kB."""
    entries = b"".join(struct.pack("<HHLL", 0x8000 + n, 1, 60_000, 8) for n in range(5_000))
    tiff = b"II*\0" + struct.pack("<LH", 8, 5_000) + entries
    return b"Exif\0\0" + tiff.ljust(65_500, b"\0")


def _profile_of_long_curves() -> bytes:
    profile = _replaced(adobe_rgb(), (b"curv" + bytes(4) + b"\0\0\0\1", b"curv" + bytes(4) + b"\xff" * 4))
    return b"ICC_PROFILE\0\1\1" + profile


def _jpeg_of_scans(scans: int, size: tuple[int, int]) -> bytes:
    """A progressive picture whose last scan comes again and again."""
    data = _encoded("JPEG", size, progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * scans + data[-2:]


# GIF


def _gif(before: bytes = b"", size: tuple[int, int] = (64, 64)) -> bytes:
    """A picture with further blocks before its pixels."""
    data = _encoded("GIF")
    start = data.index(b",\0\0\0\0")
    return data[:6] + struct.pack("<HH", *size) + data[10:start] + before + data[start:]


def _gif_of_frames(frames: int) -> bytes:
    data = _gif()
    start = data.index(b",\0\0\0\0")
    return data[:-1] + data[start:-1] * frames + b";"


# TIFF


HERE = -1


def _tiff(entries: list[tuple[int, int, int, int]], after: bytes = b"", following: int = 0) -> bytes:
    """A directory of (tag, type, count, value or offset), and what stands behind it, at offset `HERE`."""
    here = 14 + 12 * len(entries)
    tags = b"".join(
        struct.pack("<HHLL", *entry[:3], here if entry[3] == HERE else entry[3]) for entry in sorted(entries)
    )
    return b"II*\0" + struct.pack("<LH", 8, len(entries)) + tags + struct.pack("<L", following) + after


SHORT, LONG, BYTE = 3, 4, 1


def _grey(width: int, height: int, compression: int = 1) -> list[tuple[int, int, int, int]]:
    """The tags of a grey TIFF, without the place of its pixels."""
    tags = ((256, width), (257, height), (258, 8), (259, compression), (262, 1), (277, 1))
    return [(tag, LONG, 1, value) for tag, value in tags]


def _tiff_of_one_strip(strip: bytes) -> bytes:
    return _tiff([*_grey(8, 8, 8), (273, LONG, 1, HERE), (278, LONG, 1, 8), (279, LONG, 1, len(strip))], strip)


def _bigtiff_of_tags(claimed: int, tags: int) -> bytes:
    entries = b"".join(struct.pack("<HHQQ", 0x8000 + n % 0x7000, LONG, 1, 7) for n in range(tags))
    return b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, claimed) + entries


# Others


def _riff(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<L", len(data)) + data + bytes(len(data) % 2)


def _webp(canvas: tuple[int, int], flags: int = 0, before: bytes = b"", repeated: int = 0) -> bytes:
    """A picture on a canvas of another size."""
    image = _encoded("WEBP")[12:]
    size = b"".join((side - 1).to_bytes(3, "little") for side in canvas)
    frame = bytes(6) + (63).to_bytes(3, "little") * 2 + bytes(4) + image
    frames = _riff(b"ANIM", bytes(6)) + _riff(b"ANMF", frame) * repeated if repeated else image
    body = b"WEBP" + _riff(b"VP8X", bytes([flags, 0, 0, 0]) + size) + before + frames
    return _riff(b"RIFF", body)


def _replaced(data: bytes, *changes: tuple[bytes, bytes]) -> bytes:
    """A file with some of its bytes replaced, each wherever it stands."""
    for old, new in changes:
        assert old in data
        data = data.replace(old, new)
    return data


def _box(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">L", len(data) + 8) + name + data


def _bare_jxl(width: int, height: int) -> bytes:
    """A JPEG XL without a container that says it has another size."""
    bits = int.from_bytes(_encoded("JXL", (300, 301))[2:], "little") >> 26  # behind sides of 9 bits
    size = 3 << 1 | (height - 1) << 3 | 3 << 36 | (width - 1) << 38  # in 68 bits, with sides of 30
    return b"\xff\x0a" + (size | bits << 68).to_bytes(200, "little")


def _dng_of(width: int, height: int) -> list[tuple[bytes, bytes]]:
    """Changes of `dng` that make its sensor another size."""
    tag = struct.Struct("<HHLL")
    return [
        (tag.pack(256, LONG, 1, 256), tag.pack(256, LONG, 1, width)),
        (tag.pack(257, LONG, 1, 192), tag.pack(257, LONG, 1, height)),
    ]


def _bmp(width: int, height: int, rle: bytes) -> bytes:
    header = struct.pack("<LllHHLLllLL", 40, width, height, 1, 8, 1, len(rle), 0, 0, 256, 0)
    start = 14 + len(header) + 1024
    return b"BM" + struct.pack("<LLL", start + len(rle), 0, start) + header + bytes(1024) + rle


def _sides(width: int, height: int, order: str = ">") -> bytes:
    return struct.pack(f"{order}LL", width, height)


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    # Pixels: more than the limit in a file of a few bytes, refused before anything is allocated.
    "PNG of 2^62 pixels": (lambda: _png(size=(2**31 - 1, 2**31 - 1), pixels=b""), "too_large"),
    "PNG of 400 megapixels": (lambda: _png(size=(20_000, 20_000), pixels=b""), "too_large"),
    "JPEG of 4 gigapixels": (
        lambda: _replaced(_encoded("JPEG"), (b"\x08\0\x40\0\x40", b"\x08\xff\xff\xff\xff")),
        "too_large",
    ),
    "GIF of 4 gigapixels": (lambda: _gif(size=(65_535, 65_535)), "too_large"),
    "GIF with a frame larger than itself": (
        lambda: _replaced(_gif(), (b",\0\0\0\0\x40\0\x40\0", b",\0\0\0\0\xff\xff\xff\xff")),
        "too_large",
    ),
    "WebP on a canvas of 2^32 pixels": (lambda: _webp((2**16, 2**16 - 1)), "too_large"),
    "animated WebP on a canvas of 268 megapixels": (lambda: _webp((16_384, 16_384), flags=2, repeated=1), "too_large"),
    "WebP larger than its canvas": (lambda: _webp((8, 8)), "corrupt"),
    "AVIF of 268 megapixels": (
        lambda: _replaced(
            _encoded("AVIF"), (b"ispe\0\0\0\0" + _sides(64, 64), b"ispe\0\0\0\0" + _sides(16_384, 16_384))
        ),
        "too_large",
    ),
    "AVIF of 2^62 pixels": (
        lambda: _replaced(_encoded("AVIF"), (b"ispe\0\0\0\0" + _sides(64, 64), b"ispe\0\0\0\0" + _sides(2**31, 2**31))),
        "corrupt",
    ),
    "AVIF that says it is small": (
        lambda: _replaced(
            _encoded("AVIF", (2_000, 2_000), speed=10),
            (b"ispe\0\0\0\0" + _sides(2_000, 2_000), b"ispe\0\0\0\0" + _sides(8, 8)),
        ),
        "ok",
    ),
    "HEIC of 268 megapixels": (
        lambda: _replaced(
            _encoded("HEIF"), (b"ispe\0\0\0\0" + _sides(64, 64), b"ispe\0\0\0\0" + _sides(16_384, 16_384))
        ),
        "too_large",
    ),
    "HEIC of 2^62 pixels": (
        lambda: _replaced(_encoded("HEIF"), (b"ispe\0\0\0\0" + _sides(64, 64), b"ispe\0\0\0\0" + _sides(2**31, 2**31))),
        "corrupt",
    ),
    "HEIC that says it is small": (
        lambda: _replaced(
            _encoded("HEIF", (800, 800)),
            (b"ispe\0\0\0\0" + _sides(800, 800), b"ispe\0\0\0\0" + _sides(64, 64)),
        ),
        "corrupt",
    ),
    "JPEG XL of 2^60 pixels": (lambda: _bare_jxl(2**30, 2**30), "too_large"),
    "JPEG XL of 16 megapixels in 200 bytes": (lambda: _bare_jxl(4_000, 4_000), "corrupt"),
    "JPEG XL of 100 megapixels in 200 bytes": (lambda: _bare_jxl(10_000, 10_000), "decoder_memory"),
    "JPEG XL with a million boxes": (
        lambda: (data := _encoded("JXL", use_container=True))[:32] + _box(b"free") * MANY + data[32:],
        "ok",
    ),
    "JPEG XL with a compressed EXIF bomb": (
        lambda: _encoded("JXL", exif=bytes(100_000_000), compress_metadata=True),
        "corrupt",
    ),
    "animated JPEG XL": (lambda: ANIMATED_JXL, "unsupported_format"),
    "DNG of 2^62 pixels": (lambda: _replaced(dng(), *_dng_of(2**31 - 1, 2**31 - 1)), "unsupported_format"),
    "DNG of 400 megapixels": (lambda: _replaced(dng(), *_dng_of(20_000, 20_000)), "too_large"),
    "JPEG 2000 of 2^62 pixels": (
        lambda: _replaced(_encoded("JPEG2000"), (b"ihdr" + _sides(64, 64), b"ihdr" + _sides(2**31, 2**31))),
        "too_large",
    ),
    "JPEG 2000 that says it is small": (
        lambda: _replaced(
            _encoded("JPEG2000", (2_000, 2_000)), (b"ihdr" + _sides(2_000, 2_000), b"ihdr" + _sides(8, 8))
        ),
        "corrupt",
    ),
    "JPEG 2000 with one tile of 2^62 pixels": (
        lambda: _replaced(_encoded("JPEG2000"), (_sides(64, 64) + _sides(0, 0), _sides(2**31, 2**31) + _sides(0, 0))),
        "corrupt",
    ),
    "TIFF of 2^64 pixels": (lambda: _tiff([*_grey(2**32 - 1, 2**32 - 1), (273, LONG, 1, 8)]), "too_large"),
    "TIFF with a tile of 2^62 pixels": (
        lambda: _tiff(
            [*_grey(64, 64, 8), (322, LONG, 1, 2**31), (323, LONG, 1, 2**31), (324, LONG, 1, 8), (325, LONG, 1, 8)]
        ),
        "corrupt",
    ),
    "PNG that unpacks to more than it says": (lambda: _png(pixels=_zeros(500_000_000)), "ok"),
    "TIFF that unpacks to more than it says": (lambda: _tiff_of_one_strip(_zeros(500_000_000)), "ok"),
    "PPM of 10^19 pixels": (lambda: b"P6 9999999999 999999999 255\n", "too_large"),
    "PPM with a number of a million digits": (lambda: b"P6 " + b"9" * MANY + b" 1 255\n", "corrupt"),
    "BMP of 2^62 pixels": (lambda: _bmp(2**31 - 1, 2**31 - 1, b""), "too_large"),
    "BMP of skipped rows": (lambda: _bmp(13_000, 13_000, b"\0\2\xff\xff" * MANY), "decoder_memory"),
    # Metadata: bombs, and walks through millions of pieces before the pixels.
    "PNG with a text bomb": (lambda: _png(_chunk(b"zTXt", b"a\0\0" + _zeros(500_000_000))), "too_large"),
    "PNG with an international text bomb": (
        lambda: _png(_chunk(b"iTXt", b"a\0\1\0\0\0" + _zeros(500_000_000))),
        "too_large",
    ),
    "PNG with a text bomb behind its pixels": (
        lambda: _png(after=_chunk(b"zTXt", b"a\0\0" + _zeros(500_000_000))),
        "too_large",
    ),
    "PNG with a profile bomb": (lambda: _png(_chunk(b"iCCP", b"a\0\0" + _zeros(500_000_000))), "too_large"),
    "PNG with a thousand texts of a megabyte": (
        lambda: _png(b"".join(_chunk(b"zTXt", b"%d\0\0" % n + _zeros(1_000_000)) for n in range(1_000))),
        "too_large",
    ),
    "PNG with a million chunks": (lambda: _png(_chunk(b"prVt") * MANY), "too_large"),
    "PNG with 250,000 chunks behind its pixels": (lambda: _png(after=_chunk(b"prVt") * (MANY // 4)), "ok"),
    "PNG with 100 MB of text": (lambda: _png(_chunk(b"iTXt", b"a\0\0\0\0\0" + b"x" * 100_000_000)), "too_large"),
    "PNG with 250,000 empty pieces of pixels": (lambda: _png(after=_chunk(b"IDAT") * (MANY // 4)), "ok"),
    "PNG with EXIF tags that overlap": (lambda: _png(_chunk(b"eXIf", _exif_of_overlapping_tags()[6:])), "ok"),
    "JPEG with 100,000 segments": (lambda: _jpeg(_segment(0xFE, b"") * 100_000), "too_large"),
    "JPEG with a megabyte of fill bytes": (lambda: _jpeg(b"\xff" * MANY), "too_large"),
    "JPEG with a megabyte of zeros between segments": (lambda: _jpeg(_segment(0xFE, b"") + bytes(MANY)), "too_large"),
    "JPEG with 100 MB of other segments": (lambda: _jpeg(_segment(0xE1, bytes(65_000)) * 1_600), "too_large"),
    "JPEG with 5 MB of EXIF": (lambda: _jpeg(_segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 80), "too_large"),
    "JPEG with 60 MB of other segments": (lambda: _jpeg(_segment(0xE1, bytes(65_000)) * 900), "ok"),
    "JPEG with EXIF tags that overlap": (lambda: _jpeg(_segment(0xE1, _exif_of_overlapping_tags())), "ok"),
    "JPEG with 255 parts of a profile": (
        lambda: _jpeg(
            b"".join(_segment(0xE2, b"ICC_PROFILE\0" + bytes([n + 1, 255]) + bytes(65_000)) for n in range(255))
        ),
        "ok",
    ),
    "JPEG with a profile of curves of 2^32 - 1 entries": (
        lambda: _jpeg(_segment(0xE2, _profile_of_long_curves())),
        "ok",
    ),
    "JPEG that claims 2^32 - 1 pictures": (
        lambda: _jpeg(
            _segment(
                0xE2,
                b"MPF\0"
                + _tiff([(0xB000, 7, 4, 0x30303130), (0xB001, LONG, 1, 2**32 - 1), (0xB002, 7, 16, 50)], bytes(16)),
            )
        ),
        "ok",
    ),
    "GIF with 20 MB of comment": (lambda: _gif(b"!\xfe" + (b"\xff" + b"x" * 255) * 80_000 + b"\0"), "too_large"),
    "GIF with a million empty blocks": (lambda: _gif(b"!\xfe\0" * MANY), "too_large"),
    "WebP with 100 MB of profile": (
        lambda: _webp((64, 64), flags=0x20, before=_riff(b"ICCP", bytes(100_000_000))),
        "ok",
    ),
    "TIFF with 65,535 tags": (
        lambda: _tiff(
            [*_grey(8, 8), (273, LONG, 1, 8), *((n, LONG, 1, 7) for n in range(2_000, 67_000) if n < 65_536)]
        ),
        "too_large",
    ),
    "TIFF with tags that overlap": (
        lambda: _tiff(
            [*_grey(8, 8), (273, LONG, 1, 8), *((n, BYTE, 10_000_000, 8) for n in range(40_000, 60_000))],
            bytes(10_000_000),
        ),
        "ok",
    ),
    "TIFF with 200,000 strips": (
        lambda: _tiff([*_grey(1, MANY // 5), (273, LONG, MANY // 5, HERE), (278, LONG, 1, 1)], bytes(4 * MANY // 5)),
        "ok",
    ),
    "BigTIFF that claims 2^63 tags": (lambda: _bigtiff_of_tags(2**63, 100), "corrupt"),
    "BigTIFF with a million tags": (lambda: _bigtiff_of_tags(MANY, MANY), "too_large"),
    "JPEG 2000 with a million boxes": (
        lambda: (data := _encoded("JPEG2000"))[:12] + _box(b"free") * MANY + data[12:],
        "too_large",
    ),
    "JPEG 2000 with a million marker segments": (
        lambda: _replaced(_encoded("JPEG2000", no_jp2=True), (b"\xff\x52", b"\xff\x63\0\2" * MANY + b"\xff\x52")),
        "too_large",
    ),
    "PPM with a megabyte of comment": (lambda: b"P6 #" + b"x" * MANY + b"\n1 1 255\nabc", "too_large"),
    # Frames: only the first is looked at.
    "GIF with a million frames": (lambda: _gif_of_frames(MANY // 4), "ok"),
    "PNG that claims 2^31 frames": (lambda: _png(_chunk(b"acTL", _sides(2**31, 0))), "ok"),
    "WebP with 100,000 frames": (lambda: _webp((64, 64), flags=2, repeated=100_000), "ok"),
    "TIFF whose directories form a ring": (
        lambda: _tiff([*_grey(8, 8), (273, LONG, 1, 8)], bytes(64), following=8),
        "ok",
    ),
    "TIFF with 200,000 directories": (
        lambda: (
            _tiff([*_grey(8, 8), (273, LONG, 1, 8)], following=98)
            + b"".join(struct.pack("<HHHLLL", 1, 254, LONG, 1, 0, 98 + 18 * (n + 1)) for n in range(200_000))
        ),
        "ok",
    ),
    # Work: what a header cannot tell.
    "progressive JPEG of 10,000 scans": (lambda: _jpeg_of_scans(10_000, (2_000, 2_000)), "decoder_timeout"),
    "TIFF of a million empty LZW strips": (
        lambda: _tiff(
            [*_grey(1, MANY, 5), (273, LONG, MANY, HERE), (278, LONG, 1, 1), (279, LONG, MANY, HERE)], bytes(4 * MANY)
        ),
        "corrupt",
    ),
}
"""Name of the picture → (the file, `ok` or the type of its error)."""
