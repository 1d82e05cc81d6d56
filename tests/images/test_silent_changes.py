"""The column `warning`: what the published preprocessing changes silently, of real files made here."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from support.colour_profiles import (
    SRGB_CURVE,
    SRGB_PRIMARIES,
    adobe_rgb,
    cmyk_profile,
    display_p3,
    grey_profile,
    rgb_profile,
)
from support.encoded_pictures import encode, photo
from support.golden import golden_images

from artimuse_actor.images.child_decoder import ChildDecoder
from artimuse_actor.images.decode import decode_image
from artimuse_actor.images.options import DecodeOptions
from schemas.warnings import WARNINGS, join_warnings, split_warnings


def ramp(highest: float, dtype: Any) -> Image.Image:
    return Image.fromarray(np.linspace(0, highest, 4096).astype(dtype).reshape(64, 64))


def with_alpha(alpha: int, mode: str = "RGBA") -> Image.Image:
    image = photo().convert(mode)
    image.putalpha(Image.new("L", image.size, 255))
    image.putpixel((3, 3), (*image.getpixel((3, 3))[:-1], alpha))  # type: ignore[index]
    return image


def frames(file_format: str, count: int = 2) -> bytes:
    colours = [Image.new("RGB", (64, 48), colour) for colour in ("red", "lime", "blue")[:count]]
    return encode(colours[0], file_format, save_all=True, append_images=colours[1:])


def turned(orientation: int, file_format: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(photo(), file_format, exif=exif)


def png_with_xmp(orientation: int) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", f'<rdf:Description tiff:Orientation="{orientation}"/>')
    return encode(photo(), "PNG", pnginfo=info)


def srgb_of_lcms() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


PALETTE = photo().quantize(16)

WARNED: dict[str, tuple[Callable[[], bytes], str]] = {
    "16-bit grey PNG": (lambda: encode(ramp(65535, np.uint16), "PNG"), "clipped_16_bit"),
    "16-bit grey TIFF": (lambda: encode(ramp(65535, np.uint16), "TIFF"), "clipped_16_bit"),
    "16-bit PGM": (lambda: b"P5 64 64 65535\n" + np.arange(4096, dtype=">u2").tobytes(), "clipped_16_bit"),
    "32-bit TIFF": (lambda: encode(ramp(2**31 - 1, np.int32), "TIFF"), "clipped_16_bit"),
    "float TIFF": (lambda: encode(ramp(1.0, np.float32), "TIFF"), "clipped_16_bit"),
    **{f"EXIF {n}": (lambda n=n: turned(n), "exif_rotated") for n in range(2, 9)},  # type: ignore[misc]
    "EXIF 6 in a PNG": (lambda: turned(6, "PNG"), "exif_rotated"),
    "EXIF 6 in a WebP": (lambda: turned(6, "WEBP"), "exif_rotated"),
    "EXIF 6 in an AVIF": (lambda: turned(6, "AVIF"), "exif_rotated"),
    "XMP 8 in a PNG": (lambda: png_with_xmp(8), "exif_rotated"),
    "Display P3": (lambda: encode(photo(), "JPEG", icc_profile=display_p3()), "colour_profile"),
    "Adobe RGB": (lambda: encode(photo(), "PNG", icc_profile=adobe_rgb()), "colour_profile"),
    "linear light": (lambda: encode(photo(), "TIFF", icc_profile=rgb_profile(SRGB_PRIMARIES, 1.0)), "colour_profile"),
    "grey of gamma 1.0": (
        lambda: encode(photo().convert("L"), "JPEG", icc_profile=grey_profile(1.0)),
        "colour_profile",
    ),
    "profile that is none": (lambda: encode(photo(), "JPEG", icc_profile=b"not a profile" * 20), "colour_profile"),
    "CMYK JPEG": (lambda: encode(photo().convert("CMYK"), "JPEG"), "cmyk"),
    "CMYK TIFF": (lambda: encode(photo().convert("CMYK"), "TIFF"), "cmyk"),
    "CMYK JPEG with its profile": (
        lambda: encode(photo().convert("CMYK"), "JPEG", icc_profile=cmyk_profile()),
        "colour_profile+cmyk",
    ),
    "RGBA PNG": (lambda: encode(with_alpha(0), "PNG"), "alpha_dropped"),
    "RGBA PNG, one pixel almost opaque": (lambda: encode(with_alpha(254), "PNG"), "alpha_dropped"),
    "LA PNG": (lambda: encode(with_alpha(0, "LA"), "PNG"), "alpha_dropped"),
    "RGBA WebP": (lambda: encode(with_alpha(0), "WEBP", lossless=True), "alpha_dropped"),
    "RGBA TIFF": (lambda: encode(with_alpha(0), "TIFF"), "alpha_dropped"),
    "palette PNG": (lambda: encode(PALETTE, "PNG", transparency=PALETTE.getpixel((0, 0))), "alpha_dropped"),
    "palette PNG with alphas": (lambda: encode(PALETTE, "PNG", transparency=bytes(range(16))), "alpha_dropped"),
    "RGB PNG with a transparent colour": (
        lambda: encode(photo(), "PNG", transparency=photo().getpixel((0, 0))),
        "alpha_dropped",
    ),
    "animated GIF": (lambda: frames("GIF"), "first_frame"),
    "GIF whose second frame is cut off": (lambda: frames("GIF")[:-8], "first_frame"),
    "animated WebP": (lambda: frames("WEBP"), "first_frame"),
    "animated PNG": (lambda: frames("PNG"), "first_frame"),
    "AVIF sequence": (lambda: frames("AVIF"), "first_frame"),
    "TIFF of pages": (lambda: frames("TIFF"), "first_frame"),
    "turned P3 with transparency": (
        lambda: encode(with_alpha(0), "PNG", icc_profile=display_p3(), exif=_exif(3)),
        "exif_rotated+colour_profile+alpha_dropped",
    ),
}

SEEN_AS_BY_A_PERSON: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: encode(photo(), "JPEG"),
    "upright": lambda: turned(1),
    "EXIF 0": lambda: turned(0),
    "EXIF 9": lambda: turned(9),
    "damaged EXIF": lambda: encode(photo(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(40)),
    "turned TIFF, which Pillow turns": lambda: turned(6, "TIFF"),
    "16-bit RGB PNG, of which the high byte is taken": lambda: _rgb_of_16_bits(),
    "sRGB of lcms": lambda: encode(photo(), "JPEG", icc_profile=srgb_of_lcms()),
    "sRGB as a table": lambda: encode(photo(), "PNG", icc_profile=rgb_profile(SRGB_PRIMARIES, SRGB_CURVE.tolist())),
    "sRGB with a gamma of 2.2": lambda: encode(photo(), "PNG", icc_profile=rgb_profile(SRGB_PRIMARIES, 2.2)),
    "grey with the sRGB profile": lambda: encode(photo().convert("L"), "JPEG", icc_profile=srgb_of_lcms()),
    "grey of gamma 2.2": lambda: encode(photo().convert("L"), "JPEG", icc_profile=grey_profile(2.2)),
    "opaque RGBA": lambda: encode(with_alpha(255), "PNG"),
    "palette PNG whose transparent colour nobody uses": lambda: encode(photo().quantize(16), "PNG", transparency=200),
    "GIF": lambda: frames("GIF", 1),
    "WebP": lambda: frames("WEBP", 1),
    "MPO, whose other pictures are of the same": lambda: frames("MPO"),
    "GIF with a million comments behind its frame": lambda: frames("GIF", 1)[:-1] + b"!\xfe\x01x\0" * 1_000_000 + b";",
}


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _rgb_of_16_bits() -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = np.zeros((8, 8, 3), ">u2") + np.array([65535, 30000, 0], ">u2")
    data = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("name", WARNED)
def test_what_the_model_sees_otherwise_than_a_person_is_named(name: str) -> None:
    make, warning = WARNED[name]
    assert (decode_image(make()).warning or "") == warning


@pytest.mark.parametrize("name", SEEN_AS_BY_A_PERSON)
@pytest.mark.timeout(20)
def test_a_picture_that_the_model_sees_as_a_person_does_has_no_warning(name: str) -> None:
    assert decode_image(SEEN_AS_BY_A_PERSON[name]()).warning is None


def test_16_bits_are_clipped_as_published_and_marked() -> None:
    decoded = decode_image(WARNED["16-bit grey PNG"][0]())
    assert (decoded.pixels == 255).mean() > 0.99
    assert decoded.warning == "clipped_16_bit"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_that_was_turned_as_asked_has_no_warning(orientation: int) -> None:
    assert decode_image(turned(orientation), DecodeOptions(exif_rotate=True)).warning is None


def test_a_file_that_was_read_as_far_as_it_goes_says_so() -> None:
    whole, options = encode(photo(), "JPEG"), DecodeOptions(allow_truncated=True)
    assert decode_image(whole[: len(whole) // 2], options).warning == "truncated"
    assert decode_image(whole, options).warning is None
    assert decode_image(whole + bytes(4000), options).warning is None  # phones add a video
    damaged = bytearray(encode(photo(), "PNG"))
    damaged[len(damaged) // 2] ^= 0xFF
    assert decode_image(bytes(damaged), options).warning == "truncated"
    cut = frames("GIF")[:-8]
    assert decode_image(cut, options).warning == "first_frame"


def test_a_jpeg_that_shrinks_while_it_is_decoded_keeps_its_warnings() -> None:
    data = encode(photo(2000, 1500), "JPEG", icc_profile=display_p3(), exif=_exif(6))
    assert decode_image(data, DecodeOptions("fast")).warning == "exif_rotated+colour_profile"


@pytest.mark.process
def test_a_child_process_finds_the_same() -> None:
    with ChildDecoder(DecodeOptions()) as child:
        for make, warning in WARNED.values():
            assert child.decode(make()).warning == warning


@pytest.mark.parametrize("path", golden_images(), ids=lambda path: path.name)
def test_the_golden_pictures_have_the_warnings_that_their_names_tell(path: Any) -> None:
    told = {"07_rgba": "alpha_dropped", "08_cmyk": "cmyk", "10_exif6": "exif_rotated", "12_gray16": "clipped_16_bit"}
    assert decode_image(path.read_bytes()).warning == told.get(path.stem)


def test_warnings_are_one_text_that_filters_well() -> None:
    assert join_warnings([]) is None
    assert join_warnings(["first_frame", "exif_rotated", "first_frame"]) == "exif_rotated+first_frame"
    assert split_warnings(join_warnings(WARNINGS) or "") == list(WARNINGS)
    # `contains(warning, 'cmyk')` must not find another one.
    assert not [(one, other) for one in WARNINGS for other in WARNINGS if one != other and one in other]
