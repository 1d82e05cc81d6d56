"""`--preprocess photo`: the picture that a person sees, beside the published one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from support.colour_profiles import adobe_rgb, cmyk_profile, display_p3, grey_profile
from support.encoded_pictures import apart, encode, photo, small
from support.golden import golden_images
from support.paths import GOLDEN
from support.score_job import golden_options, run_artimuse, run_score, table_rows

from artimuse_actor import ArtiMuse
from artimuse_actor.errors import ImageError
from artimuse_actor.images.child_decoder import ChildDecoder
from artimuse_actor.images.decode import decode_image, opened_to_pixels
from artimuse_actor.images.options import DecodeOptions
from jobs.demo.run import CHECKPOINT

PHOTO = DecodeOptions(preprocess="photo")


def grey(highest: float, dtype: Any) -> Image.Image:
    """The photo in grey, its white being this number."""
    levels: NDArray[np.float64] = np.asarray(photo().convert("L")) / 255
    levels[0, 0] = 1.0
    return Image.fromarray((levels * highest).astype(dtype))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (encode(grey(65535, np.uint16), "PNG"), "PNG of 16 bits"),
        (encode(grey(65535, np.uint16), "TIFF"), "TIFF of 16 bits"),
        (b"P5 300 200 65535\n" + np.asarray(grey(65535, np.uint16)).astype(">u2").tobytes(), "PGM of 16 bits"),
        (encode(grey(2**31 - 1, np.int32), "TIFF"), "TIFF of 32 bits"),
        (encode(grey(1.0, np.float32), "TIFF"), "TIFF of floats to 1"),
        (encode(grey(255.0, np.float32), "TIFF"), "TIFF of floats to 255"),
        (encode(grey(4.0, np.float32), "TIFF"), "TIFF of floats to 4"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wide_numbers_are_scaled_and_not_clipped(data: bytes, name: str) -> None:
    seen, published = decode_image(data, PHOTO), decode_image(data)
    assert apart(seen.pixels, small(photo().convert("L"))) < 1
    assert seen.warning is None
    assert published.warning == "clipped_16_bit"
    if "floats to 255" not in name:
        assert apart(published.pixels, seen.pixels) > 40


def test_numbers_that_are_none_do_not_spread() -> None:
    values = np.asarray(grey(1.0, np.float32)).copy()
    values[10, 10], values[20, 20], values[30, 30] = np.nan, np.inf, -np.inf
    assert apart(decode_image(encode(Image.fromarray(values), "TIFF"), PHOTO).pixels, small(photo().convert("L"))) < 1


def test_the_demo_model_scores_a_picture_of_16_bits_like_that_of_8() -> None:
    model = ArtiMuse.load(str(CHECKPOINT), protocol="artimuse", device="cpu")
    wide, narrow = encode(grey(65535, np.uint16), "PNG"), encode(grey(255, np.uint8), "PNG")
    seen, eight = (model.score(data, options=PHOTO).score for data in (wide, narrow))
    assert seen == pytest.approx(eight, abs=1.0)
    assert abs(model.score(wide).score - eight) > 10


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_tag_says(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(), "JPEG", exif=exif, quality=95, subsampling=0)
    seen, turned = decode_image(data, PHOTO), decode_image(data, DecodeOptions(exif_rotate=True))
    assert apart(seen.pixels, turned.pixels) < 0.1
    assert (seen.width, seen.height) == (turned.width, turned.height)
    assert seen.warning is None


@pytest.mark.parametrize("profile", [display_p3, adobe_rgb], ids=["Display P3", "Adobe RGB"])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_colours_are_those_of_the_profile(profile: Any, file_format: str) -> None:
    asked = ImageCms.ImageCmsProfile(io.BytesIO(profile()))
    srgb = ImageCms.createProfile("sRGB")
    file = ImageCms.profileToProfile(photo(), srgb, asked, outputMode="RGB")  # the same colours in the other numbers
    assert file is not None
    quality = {"lossless": True} if file_format == "WEBP" else {"quality": 98, "subsampling": 0}
    data = encode(file, file_format, icc_profile=profile(), **({} if file_format in ("PNG", "TIFF") else quality))
    seen = decode_image(data, PHOTO)
    assert apart(seen.pixels, small(photo())) < 2
    assert apart(decode_image(data).pixels, small(photo())) > 2.5
    assert seen.warning is None


def test_a_grey_picture_with_its_profile_gets_lighter_or_darker() -> None:
    data = encode(photo().convert("L"), "PNG", icc_profile=grey_profile(1.0))
    seen = decode_image(data, PHOTO)
    assert seen.pixels.mean() > decode_image(data).pixels.mean() + 20
    assert seen.warning is None


def test_inks_are_those_of_the_profile() -> None:
    file = photo().convert("CMYK")
    seen = decode_image(encode(file, "TIFF", icc_profile=cmyk_profile()), PHOTO)
    plain = decode_image(encode(file, "TIFF"), PHOTO)
    assert seen.pixels.mean() > plain.pixels.mean() + 20  # half the ink
    assert (seen.warning, plain.warning) == (None, "cmyk")
    np.testing.assert_array_equal(plain.pixels, small(file.resize((448, 448), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize(
    ("image", "profile"),
    [
        (photo(), b"not a profile" * 20),
        (photo(), b""),
        (photo(), display_p3()[:300]),
        (photo(), cmyk_profile()),
        (photo(), grey_profile(1.0)),
        (photo().convert("L"), cmyk_profile()),
        (photo(), display_p3() + bytes(5_000_000)),
    ],
    ids=["noise", "empty", "cut", "of inks", "of grey", "of inks for grey", "endless"],
)
def test_a_profile_that_does_not_fit_is_ignored_and_the_warning_stays(image: Image.Image, profile: bytes) -> None:
    seen = decode_image(encode(image, "TIFF", icc_profile=profile), PHOTO)
    np.testing.assert_array_equal(seen.pixels, small(image))
    assert seen.warning == ("colour_profile" if profile else None)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_lies_over_white(mode: str) -> None:
    image = Image.new(mode, (200, 100), 0)  # black, and nothing of it is seen
    image.paste(photo(100, 100).convert(mode), (100, 0))
    seen, published = decode_image(encode(image, "PNG"), PHOTO), decode_image(encode(image, "PNG"))
    assert (seen.pixels[:, :200] == 255).all()
    assert (published.pixels[:, :200] == 0).all()
    assert apart(seen.pixels[:, 240:], published.pixels[:, 240:]) == 0
    assert (seen.warning, published.warning) == (None, "alpha_dropped")


def test_half_transparent_black_is_grey_over_white() -> None:
    data = encode(Image.new("RGBA", (64, 64), (0, 0, 0, 128)), "PNG")
    assert set(np.unique(decode_image(data, PHOTO).pixels)) == {127}


@pytest.mark.parametrize("transparency", [3, bytes([0] * 8 + [255] * 8)], ids=["one", "several"])
def test_transparent_colours_of_a_palette_are_white(transparency: int | bytes) -> None:
    image = photo().quantize(16)
    seen = decode_image(encode(image, "PNG", transparency=transparency), PHOTO)
    hidden = {transparency} if isinstance(transparency, int) else set(range(8))
    rgb = np.asarray(image.convert("RGB")).copy()
    rgb[np.isin(np.asarray(image), list(hidden))] = 255
    assert apart(seen.pixels, small(Image.fromarray(rgb))) < 1
    assert seen.warning is None


def test_what_photo_does_not_change_is_warned_of_still() -> None:
    colours = [Image.new("RGB", (64, 48), colour) for colour in ("red", "lime")]
    animated = encode(colours[0], "GIF", save_all=True, append_images=colours[1:])
    assert decode_image(animated, PHOTO).warning == "first_frame"
    cut = encode(photo(), "JPEG")[:3000]
    assert decode_image(cut, DecodeOptions(allow_truncated=True, preprocess="photo")).warning == "truncated"


@pytest.mark.parametrize("name", ["00_rgb_448x448.jpg", "03_rgb_1200x801.jpg", "05_gray.png", "09_webp.webp"])
def test_a_plain_picture_is_the_same_either_way(name: str) -> None:
    data = (GOLDEN / "artimuse" / "images" / name).read_bytes()
    np.testing.assert_array_equal(decode_image(data, PHOTO).pixels, decode_image(data).pixels)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "AVIF"])
@pytest.mark.parametrize("options", [PHOTO, DecodeOptions(exif_rotate=True)], ids=["photo", "exif-rotate"])
def test_a_file_that_ends_too_early_is_an_error_all_the_same(file_format: str, options: DecodeOptions) -> None:
    data = encode(photo(), file_format)
    with pytest.raises(ImageError) as caught:
        decode_image(data[: len(data) // 2], options)
    assert caught.value.error_type == "truncated"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(), "TIFF", exif=exif)
    seen, published = decode_image(data, PHOTO), decode_image(data)
    np.testing.assert_array_equal(seen.pixels, published.pixels)
    for decoded in (seen, published, decode_image(data, DecodeOptions(exif_rotate=True))):
        assert (decoded.width, decoded.height) == ((200, 300) if orientation > 4 else (300, 200))


def test_fast_decoding_goes_with_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(photo(3000, 2000), "JPEG", icc_profile=display_p3(), exif=exif)
    fast = decode_image(data, DecodeOptions("fast", preprocess="photo"))
    assert apart(fast.pixels, decode_image(data, PHOTO).pixels) < 0.5
    assert (fast.width, fast.height, fast.warning) == (2000, 3000, None)


def test_an_opened_picture_is_seen_like_its_file() -> None:
    data = encode(grey(65535, np.uint16), "PNG")
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(opened_to_pixels(image, PHOTO), decode_image(data, PHOTO).pixels)


@pytest.mark.process
def test_a_child_process_sees_the_same() -> None:
    with ChildDecoder(PHOTO) as child:
        for path in golden_images():
            here, there = decode_image(path.read_bytes(), PHOTO), child.decode(path.read_bytes())
            np.testing.assert_array_equal(here.pixels, there.pixels)
            assert here.warning == there.warning


def test_it_is_a_part_of_the_fingerprint_and_exif_rotate_a_part_of_it() -> None:
    assert PHOTO.version == DecodeOptions(exif_rotate=True, preprocess="photo").version == "rgb-bicubic-448/1+photo/1"
    for options in (
        DecodeOptions(),
        DecodeOptions("fast", allow_truncated=True, exif_rotate=True),
        DecodeOptions("fast", allow_truncated=True, preprocess="photo"),
    ):
        assert DecodeOptions.of_version(options.version) == options


@pytest.mark.process
def test_a_store_has_pictures_of_one_preprocessing(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in ("10_exif6.jpg", "12_gray16.png"):
        (photos / name).write_bytes((GOLDEN / "artimuse" / "images" / name).read_bytes())
    assert "warnings" not in run_score(photos, out, "--preprocess", "photo")
    rows = table_rows(out)
    assert rows["10_exif6.jpg"]["warning"] is None
    wide = (photos / "12_gray16.png", *golden_options(), "--json")
    one = run_artimuse("image", *wide, "--preprocess", "photo").stdout
    assert f'"score": {rows["12_gray16.png"]["score"]:.3f}'[:12] in one
    screen = run_artimuse("score", photos, "--out", out, *golden_options(), "--local", code=1).stderr
    assert "holds scores of" in screen
    assert "photo/1" in screen
    assert "Nothing to do" in run_score(photos, out, "--preprocess", "photo", "--exif-rotate")
    run_artimuse("report", out, "--out", tmp_path / "report.html")
    refused = run_artimuse("score", photos, "--out", out, *golden_options(), "--preprocess", "film", code=2).stderr
    assert "--preprocess takes published or photo, not 'film'." in refused
