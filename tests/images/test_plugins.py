"""HEIC and JPEG XL, under the same limits as all other formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.colour_profiles import display_p3
from support.encoded_pictures import apart, encode, photo, small
from support.hostile_pictures import ANIMATED_JXL
from support.score_job import run_artimuse, run_score, table_rows

from artimuse_actor.errors import ImageError
from artimuse_actor.images.child_decoder import ChildDecoder
from artimuse_actor.images.decode import decode_image
from artimuse_actor.images.jxl_header import jxl_header
from artimuse_actor.images.options import DecodeOptions

CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
PHOTO = DecodeOptions(preprocess="photo")
KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("HEIF", {}),
    ("JXL", {}),
    ("JXL", {"use_container": True}),
    ("JXL", {"lossless": True}),
)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def reconstructed(orientation: int, path: Path) -> bytes:
    """A JPEG as JPEG XL, from which the same JPEG can be put together again."""
    photo().save(path, exif=exif(orientation), quality=95)
    with Image.open(path) as image:
        return encode(image, "JXL", lossless_jpeg=True)


@pytest.mark.parametrize(("file_format", "how"), KINDS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_every_mode_is_read(file_format: str, how: dict[str, Any], mode: str) -> None:
    image = photo().convert(mode)
    decoded = decode_image(encode(image, file_format, **how))
    assert (decoded.width, decoded.height, decoded.format) == (300, 200, file_format)
    assert apart(decoded.pixels, small(image)) < 6
    assert decoded.warning is None


@pytest.mark.parametrize(("file_format", "how"), KINDS)
def test_a_size_above_the_limit_is_refused_before_anything_is_decoded(file_format: str, how: dict[str, Any]) -> None:
    data = encode(photo(), file_format, **how)
    for cut in (data, data[: len(data) - 100]):  # nor is the end of the file looked at
        with pytest.raises(ImageError, match=r"300 × 200 pixels are above the limit of 59,999") as caught:
            decode_image(cut, DecodeOptions(max_pixels=59_999))
        assert caught.value.error_type == "too_large"


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(1, 1), (37, 53), (512, 512), (640, 360), (3000, 9), (1200, 801)])
@pytest.mark.parametrize("how", [{}, {"use_container": True}, {"lossless": True}])
def test_the_header_of_a_jpeg_xl_has_its_size(width: int, height: int, how: dict[str, Any]) -> None:
    header = jxl_header(encode(photo(width, height), "JXL", **how))
    assert header is not None
    assert (header.width, header.height, header.is_animated) == (width, height, False)


def test_the_header_of_something_else_is_none() -> None:
    for data in (
        b"",
        b"\xff\x0a",
        b"\xff\xd8\xff",
        b"\0\0\0\x0cJXL \r\n\x87\n",
        b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99),
    ):
        assert jxl_header(data) is None


def test_an_animated_jpeg_xl_is_refused_since_its_plugin_shows_the_last_frame() -> None:
    with pytest.raises(ImageError, match="The file is an animated JPEG XL") as caught:
        decode_image(ANIMATED_JXL)
    assert caught.value.error_type == "unsupported_format"


@pytest.mark.parametrize("options", [DecodeOptions(), DecodeOptions(exif_rotate=True), PHOTO], ids=lambda o: o.version)
def test_a_heic_is_turned_by_its_container_once_and_not_by_exif(options: DecodeOptions) -> None:
    upright = photo()
    data = encode(upright, "HEIF", exif=exif(6))  # the plugin writes how to turn it into the container
    assert b"irot" in data
    decoded = decode_image(data, options)
    assert (decoded.width, decoded.height) == (200, 300)
    assert apart(decoded.pixels, small(upright.rotate(-90, expand=True))) < 6
    assert decoded.warning is None


def test_exif_says_nothing_about_a_jpeg_xl_unless_it_holds_a_jpeg(tmp_path: Path) -> None:
    plain = encode(photo(), "JXL", exif=exif(6))
    for options in (DecodeOptions(), PHOTO):
        decoded = decode_image(plain, options)
        assert (decoded.width, decoded.height, decoded.warning) == (300, 200, None)
    jpeg = reconstructed(6, tmp_path / "a.jpg")
    assert decode_image(jpeg).warning == "exif_rotated"
    turned = decode_image(jpeg, PHOTO)
    assert (turned.width, turned.height, turned.warning) == (200, 300, None)
    assert apart(turned.pixels, small(photo().rotate(-90, expand=True))) < 6


def test_colours_of_a_heic_are_warned_of_and_converted() -> None:
    data = encode(photo(), "HEIF", icc_profile=display_p3(), quality=95)
    seen, published = decode_image(data, PHOTO), decode_image(data)
    assert (seen.warning, published.warning) == (None, "colour_profile")
    assert apart(seen.pixels, published.pixels) > 2


def test_a_16_bit_jpeg_xl_is_clipped_or_scaled_like_any_other() -> None:
    wide = Image.fromarray(np.asarray(photo().convert("L")).astype(np.uint16) * 257)
    data = encode(wide, "JXL", lossless=True)
    published, seen = decode_image(data), decode_image(data, PHOTO)
    assert published.warning == "clipped_16_bit+colour_profile"  # the plugin writes 16 bits as linear light
    assert published.pixels.mean() > 250
    assert seen.pixels.std() > 30
    assert seen.warning is None


def test_what_is_transparent_is_warned_of() -> None:
    image = photo().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    for file_format, how in KINDS:
        assert decode_image(encode(image, file_format, **how)).warning == "alpha_dropped"


def test_a_heic_that_is_cut_off_is_no_black_picture() -> None:
    data = encode(photo(), "HEIF")
    for options in (DecodeOptions(), DecodeOptions(allow_truncated=True)):
        with pytest.raises(ImageError) as caught:
            decode_image(data[: len(data) // 2], options)
        assert caught.value.error_type == "truncated"


@pytest.mark.process
def test_a_child_process_reads_them_within_its_limits() -> None:
    with ChildDecoder(DecodeOptions()) as child:
        for file_format, how in KINDS:
            data = encode(photo(), file_format, **how)
            np.testing.assert_array_equal(child.decode(data).pixels, decode_image(data).pixels)
    for file_format in ("HEIF", "JXL"):
        large = encode(photo(2400, 1600), file_format, **({"effort": 1} if file_format == "JXL" else {"quality": 10}))
        with ChildDecoder(DecodeOptions(decoder_memory_bytes=20_000_000)) as child:
            with pytest.raises(ImageError) as caught:
                child.decode(large)
            assert caught.value.error_type == "decoder_memory"
            child.decode(encode(photo(), file_format))  # and it goes on


@pytest.mark.process
def test_a_library_of_phone_pictures_is_listed_scored_shown_and_copied(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    (photos / "@eaDir" / "a.heic").mkdir(parents=True)
    (photos / "a.heic").write_bytes(encode(photo(), "HEIF"))
    (photos / "b.jxl").write_bytes(encode(photo(), "JXL"))
    (photos / "@eaDir" / "a.heic" / "SYNOPHOTO_THUMB_XL.jpg").write_bytes(encode(photo(), "JPEG"))
    for sidecar in ("a.mov", "a.aae", "b.xmp", "Thumbs.db"):
        (photos / sidecar).write_bytes(b"x")
    screen = run_score(photos, out)
    assert "Left out, folders of thumbnails: 1 @eaDir." in screen
    assert "Left out, not being called like images: 1 .aae, 1 .db, 1 .mov, 1 .xmp." in " ".join(screen.split())
    assert {name: row["format"] for name, row in table_rows(out).items()} == {"a.heic": "HEIF", "b.jxl": "JXL"}
    run_artimuse("curate", out, "--top", "2", "--copy", "--out", tmp_path / "best")
    names = sorted(path.suffix for path in tmp_path.glob("best/images/*"))
    assert names == [".heic", ".jxl"]
    run_artimuse("report", out, "--out", tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().count("data:image/webp;base64,") == 2
