from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin
from scipy import fft
from support.golden import golden_images

from artimuse_actor.errors import IMAGE_ERROR_TYPES, ImageError, UsageError
from artimuse_actor.images.decode import decode_image, opened_to_pixels
from artimuse_actor.images.options import FORMATS, DecodeOptions, Pixels
from artimuse_actor.images.perceptual_hash import lowest_frequencies, perceptual_hash
from artimuse_actor.images.preprocess import to_pixels


def photo(width: int = 320, height: int = 240) -> Image.Image:
    """A real picture of any size."""
    with Image.open(golden_images()[3]) as image:
        return image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def grey_ramp() -> NDArray[np.uint16]:
    """(64, 64) 16-bit grey, from black to white."""
    return np.linspace(0, 65535, 4096).astype(np.uint16).reshape(64, 64)


def encode(image: Image.Image, file_format: str, **arguments: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **arguments)
    return buffer.getvalue()


def published_pixels(image: Image.Image) -> Pixels:
    """The published preprocessing, as ArtiMuse's `load_image` spells it."""
    return np.asarray(image.convert("RGB").resize((448, 448), resample=3))


def png(width: int, height: int, idat: bytes, bit_depth: int = 8, colour_type: int = 0) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", idat) + chunk(b"IEND", b"")


def error_of(data: bytes, options: DecodeOptions = DecodeOptions()) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_image(data, options)
    assert caught.value.error_type in IMAGE_ERROR_TYPES
    assert "0x" not in caught.value.message  # an address in memory would make two runs differ
    assert len(caught.value.message) < 600
    assert "\n" not in caught.value.message
    assert not caught.value.retryable
    return caught.value


def pixels_or_error(data: bytes, options: DecodeOptions) -> Pixels | ImageError:
    try:
        return decode_image(data, options).pixels
    except ImageError as error:
        return error


ENCODED: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: encode(photo(), "JPEG"),
    "progressive JPEG": lambda: encode(photo(), "JPEG", progressive=True),
    "PNG": lambda: encode(photo(), "PNG"),
    "WebP": lambda: encode(photo(), "WEBP"),
    "lossless WebP": lambda: encode(photo(), "WEBP", lossless=True),
    "GIF": lambda: encode(photo(), "GIF"),
    "BMP": lambda: encode(photo(), "BMP"),
    "TIFF": lambda: encode(photo(), "TIFF"),
    "LZW TIFF": lambda: encode(photo(), "TIFF", compression="tiff_lzw"),
    "AVIF": lambda: encode(photo(), "AVIF", speed=10),
    "HEIC": lambda: encode(photo(), "HEIF"),
    "HEIC of tiles": lambda: encode(photo(), "HEIF", grid_tile_size=128),
    "JPEG XL": lambda: encode(photo(), "JXL", use_container=True),
    "JPEG XL without a container": lambda: encode(photo(), "JXL"),
    "lossless JPEG XL": lambda: encode(photo(), "JXL", lossless=True),
    "JPEG 2000": lambda: encode(photo(), "JPEG2000"),
    "JPEG 2000 without a container": lambda: encode(photo(), "JPEG2000", no_jp2=True),
    "PPM": lambda: encode(photo(), "PPM"),
}


BARE_JXL = ("JPEG XL without a container", "lossless JPEG XL")  # nothing tells where such a file should end


# What is read


@pytest.mark.parametrize("path", golden_images(), ids=lambda path: path.name)
def test_golden_pictures_are_preprocessed_exactly_as_published(path: Path) -> None:
    decoded = decode_image(path.read_bytes())
    with Image.open(path) as image:
        np.testing.assert_array_equal(decoded.pixels, published_pixels(image))
        assert (decoded.width, decoded.height, decoded.format) == (image.width, image.height, image.format)
    assert decoded.pixels.shape == (448, 448, 3)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.phash == perceptual_hash(decoded.pixels)


@pytest.mark.parametrize("name", ENCODED)
def test_every_format_of_the_allow_list_is_read(name: str) -> None:
    decoded = decode_image(ENCODED[name]())
    assert decoded.format in FORMATS
    assert (decoded.width, decoded.height) == (320, 240)
    distance = np.abs(decoded.pixels.astype(int) - published_pixels(photo())).mean()
    assert distance < 12


MODES: dict[str, Callable[[], bytes]] = {
    "16-bit grey PNG": lambda: encode(Image.fromarray(grey_ramp()), "PNG"),
    "16-bit grey TIFF": lambda: encode(Image.fromarray(grey_ramp()), "TIFF"),
    "float TIFF": lambda: encode(Image.fromarray(np.linspace(0, 255, 4096, dtype=np.float32).reshape(64, 64)), "TIFF"),
    "palette PNG with transparency": lambda: encode(photo().quantize(16), "PNG", transparency=3),
    "palette GIF with transparency": lambda: encode(photo().quantize(16), "GIF", transparency=3),
    "CMYK JPEG": lambda: encode(photo().convert("CMYK"), "JPEG"),
    "CMYK TIFF": lambda: encode(photo().convert("CMYK"), "TIFF"),
    "YCbCr TIFF": lambda: encode(photo().convert("YCbCr"), "TIFF"),
    "LAB TIFF": lambda: encode(photo().convert("LAB"), "TIFF"),
    "LA PNG": lambda: encode(photo().convert("LA"), "PNG"),
    "RGBA PNG": lambda: encode(photo().convert("RGBA"), "PNG"),
    "RGBA WebP": lambda: encode(photo().convert("RGBA"), "WEBP"),
    "RGBA AVIF": lambda: encode(photo().convert("RGBA"), "AVIF", speed=10),
    "bilevel TIFF": lambda: encode(photo().convert("1"), "TIFF", compression="group4"),
    "bilevel PBM": lambda: encode(photo().convert("1"), "PPM"),
    "16-bit PGM": lambda: b"P5 64 64 65535\n" + np.arange(4096, dtype=">u2").tobytes(),
    "one pixel": lambda: encode(Image.new("RGB", (1, 1), (9, 99, 199)), "PNG"),
    "one row": lambda: encode(photo(2000, 1), "PNG"),
}


@pytest.mark.parametrize("name", MODES)
def test_every_kind_of_pixel_becomes_rgb_as_published(name: str) -> None:
    data = MODES[name]()
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(decode_image(data).pixels, published_pixels(image))


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO"])
def test_of_many_frames_the_first_is_read(file_format: str) -> None:
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "lime", "blue")]
    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 3
    decoded = decode_image(data)
    assert decoded.format == file_format
    np.testing.assert_allclose(decoded.pixels.mean((0, 1)), (255, 0, 0), atol=3)


def test_a_later_frame_that_is_cut_off_does_not_matter() -> None:
    data = encode(photo(), "GIF", save_all=True, append_images=[photo().rotate(180)])
    np.testing.assert_array_equal(decode_image(data[: len(data) * 3 // 4]).pixels, decode_image(data).pixels)


def test_an_exif_rotation_is_ignored_as_published_unless_asked_for() -> None:
    image = photo(300, 200)
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90° clockwise to view
    data = encode(image, "JPEG", exif=exif, quality=100, subsampling=0)
    plain, turned = decode_image(data), decode_image(data, DecodeOptions(exif_rotate=True))
    assert (plain.width, plain.height) == (300, 200)
    assert (turned.width, turned.height) == (200, 300)
    expected = published_pixels(image.rotate(-90, expand=True))
    assert np.abs(turned.pixels.astype(int) - expected).mean() < 2
    assert np.abs(plain.pixels.astype(int) - published_pixels(image)).mean() < 2
    assert np.abs(plain.pixels.astype(int) - expected).mean() > 10


def test_a_picture_without_exif_is_not_turned() -> None:
    data = ENCODED["PNG"]()
    turned = decode_image(data, DecodeOptions(exif_rotate=True))
    np.testing.assert_array_equal(turned.pixels, decode_image(data).pixels)


@pytest.mark.slow
def test_fast_decoding_of_a_large_jpeg_stays_within_the_documented_distance() -> None:
    rng = np.random.default_rng(0)
    noisy = np.asarray(photo(4000, 3000)).astype(int) + rng.integers(-12, 13, (3000, 4000, 1))
    data = encode(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), "JPEG", quality=90)
    exact, fast = decode_image(data), decode_image(data, DecodeOptions(decode="fast"))
    difference = np.abs(exact.pixels.astype(int) - fast.pixels)
    assert 0 < difference.mean() < 0.3
    assert difference.max() <= 3
    assert (fast.width, fast.height, fast.format) == (4000, 3000, "JPEG")
    assert fast.phash == exact.phash


@pytest.mark.parametrize("name", ["00_rgb_448x448.jpg", "04_rgb_37x53.jpg", "05_gray.png"])
def test_fast_decoding_leaves_small_and_other_pictures_alone(name: str) -> None:
    data = next(path for path in golden_images() if path.name == name).read_bytes()
    fast = decode_image(data, DecodeOptions(decode="fast"))
    np.testing.assert_array_equal(fast.pixels, decode_image(data).pixels)


def test_an_opened_picture_is_preprocessed_like_its_file() -> None:
    data = ENCODED["JPEG"]()
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(to_pixels(image), decode_image(data).pixels)


def test_pillows_warnings_stay_inside() -> None:
    # Warnings are errors in tests, and in the fleets of some users.
    data = png(10, 10, zlib.compress(bytes(11 * 10)))
    text = struct.pack(">I", 0) + b"tEXt" + struct.pack(">I", zlib.crc32(b"tEXt"))
    decode_image(data[:33] + text + data[33:])
    decode_image(encode(photo().quantize(16), "PNG", transparency=bytes(range(16))))


# What is refused


def test_no_bytes_are_an_empty_file() -> None:
    assert error_of(b"").error_type == "empty"


def test_a_file_above_the_limit_is_too_large() -> None:
    data = ENCODED["JPEG"]()
    error = error_of(data, DecodeOptions(max_bytes=len(data) - 1))
    assert error.error_type == "too_large"
    assert f"{len(data):,} bytes, the limit is {len(data) - 1:,}" in error.message
    decode_image(data, DecodeOptions(max_bytes=len(data)))


def test_a_picture_above_the_limit_is_too_large() -> None:
    data = ENCODED["PNG"]()
    error = error_of(data, DecodeOptions(max_pixels=320 * 240 - 1))
    assert (error.error_type, error.message[:12]) == ("too_large", "320 × 240 pi")
    decode_image(data, DecodeOptions(max_pixels=320 * 240))


@pytest.mark.timeout(10)
@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_a_bomb_of_200_megapixels_in_a_few_bytes_is_too_large_and_not_decoded(decode: Any) -> None:
    bomb = png(20_000, 10_000, zlib.compress(bytes(1000)))
    assert len(bomb) < 200
    error = error_of(bomb, DecodeOptions(decode=decode))
    assert error.error_type == "too_large"
    assert "200000000" in error.message.replace(",", "")


@pytest.mark.parametrize(
    "header",
    [
        b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0" + b",\0\0\0\0\xff\xff\xff\xff\0\x08\0;",
        b"P6 99999 99999 255\n",
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
    ],
    ids=["GIF", "PPM", "BMP"],
)
@pytest.mark.timeout(10)
def test_bombs_of_other_formats_are_too_large(header: bytes) -> None:
    assert error_of(header).error_type == "too_large"


@pytest.mark.timeout(20)
def test_max_pixels_lifts_pillows_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # put back after the test
    bomb = png(20_000, 10_000, zlib.compress(bytes(1000)), bit_depth=1)
    assert error_of(bomb).error_type == "too_large"
    assert error_of(bomb, DecodeOptions(max_pixels=200_000_000)).error_type != "too_large"
    assert error_of(bomb).error_type == "too_large"


@pytest.mark.slow
def test_as_much_metadata_as_real_files_have_is_read() -> None:
    data = ENCODED["JPEG"]()
    depth_map = struct.pack(">HH", 0xFFE1, 65_000) + b"http://ns.adobe.com/xmp/extension/\0".ljust(64_998, b"x")
    exif = struct.pack(">HH", 0xFFE1, 65_000) + b"Exif\0\0".ljust(64_998, b"\0")
    pixels = decode_image(data).pixels
    np.testing.assert_array_equal(decode_image(data[:2] + exif * 4 + depth_map * 500 + data[2:]).pixels, pixels)
    np.testing.assert_array_equal(decode_image(data[:2] + b"\xff" * 50_000 + data[2:]).pixels, pixels)
    layers = TiffImagePlugin.ImageFileDirectory_v2()
    layers[37724] = bytes(80_000_000)  # Photoshop's, longer than any other metadata may be
    tiff = encode(photo(), "TIFF", tiffinfo=layers)
    np.testing.assert_array_equal(decode_image(tiff).pixels, published_pixels(photo()))


def test_a_machine_without_memory_is_not_called_a_broken_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any, **__: Any) -> Any:
        raise MemoryError

    for place in (
        "PIL.Image.open",
        "artimuse_actor.images.decode.preprocess",
        "artimuse_actor.images.decode.perceptual_hash",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, exhausted)
            with pytest.raises(ImageError) as caught:
                decode_image(golden_images()[0].read_bytes())
        assert (caught.value.error_type, caught.value.retryable) == ("decoder_memory", True)
    monkeypatch.setattr("artimuse_actor.images.decode.preprocess", exhausted)
    with pytest.raises(ImageError) as caught:
        opened_to_pixels(photo(), DecodeOptions())
    assert caught.value.error_type == "decoder_memory"


@pytest.mark.parametrize(
    "data", [b"Dear diary,\n", b"\0" * 1000, b"\x89", b"<html><body>404</body></html>", bytes(range(256)), b"RIFF" * 9]
)
def test_text_and_noise_are_no_image(data: bytes) -> None:
    error = error_of(data)
    assert error.error_type == "not_an_image"
    assert error.message == "The file starts like no image format."


def test_no_message_quotes_the_file() -> None:
    error = error_of(b"P6\n12 se5ec4e7ret\n255\n" + bytes(100))
    assert error.error_type == "corrupt"
    assert "5ec4e7" not in error.message


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'\xef\xbb\xbf\n <?xml version="1.0"?><svg/>', "SVG"),
        (b"8BPS\0\x01" + bytes(6) + b"\0\x03\0\0\0\x08\0\0\0\x08\0\x08\0\x03" + bytes(300), "PSD"),
        (encode(photo(), "PDF"), "PDF"),
        (encode(photo(), "EPS"), "EPS"),
        (encode(photo(64, 64), "ICO"), "ICO"),
        (encode(photo(), "PCX"), "PCX"),
        (encode(photo(), "SGI"), "SGI"),
        (encode(photo(), "TGA"), "TGA"),
        (encode(photo().quantize(16), "TGA"), "TGA"),
        (encode(photo(), "DDS"), "DDS"),
        (encode(photo(), "QOI"), "QOI"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_formats_outside_the_allow_list_are_named_and_never_opened(data: bytes, name: str) -> None:
    # EPS would start Ghostscript.
    error = error_of(data)
    assert error.error_type == "unsupported_format"
    assert f"The file is {name}" in error.message


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("name", [name for name in ENCODED if name not in BARE_JXL])
def test_a_file_that_ends_too_early_is_truncated(name: str, share: float) -> None:
    data = ENCODED[name]()
    error = error_of(data[: int(share * len(data))])
    assert error.error_type == "truncated", error.message
    assert f"({int(share * len(data)):,} bytes)" in error.message


def test_a_file_cut_before_its_last_bytes_is_truncated() -> None:
    for name in ("JPEG", "WebP", "BMP", "TIFF", "AVIF", "JPEG 2000", "PPM"):
        assert error_of(ENCODED[name]()[:-1]).error_type == "truncated", name


@pytest.mark.parametrize("name", BARE_JXL)
def test_a_bare_jpeg_xl_that_ends_too_early_may_also_be_damaged(name: str) -> None:
    data = ENCODED[name]()
    for share in (0.02, 0.1, 0.5, 0.98):
        error = error_of(data[: int(share * len(data))])
        assert (error.error_type, error.message) == ("corrupt", "The JPEG XL file is damaged, or ends too early.")


def test_a_targa_picture_is_known_by_its_length_too() -> None:
    footer = len(b"\0" * 8 + b"TRUEVISION-XFILE.\0")
    error = error_of(encode(photo(), "TGA")[:-footer])
    assert error.message.startswith("The file is TGA, ")


def test_a_download_that_was_preallocated_and_not_finished_is_truncated() -> None:
    for name in ("JPEG", "PNG"):
        data = ENCODED[name]()
        half = len(data) // 2
        assert error_of(data[:half] + bytes(len(data) - half)).error_type == "truncated", name


@pytest.mark.parametrize("name", ["JPEG", "progressive JPEG", "PNG", "GIF", "BMP", "TIFF", "JPEG 2000", "PPM"])
def test_allow_truncated_scores_what_is_there(name: str) -> None:
    data = ENCODED[name]()
    cut = data[: len(data) * 6 // 10]
    decoded = decode_image(cut, DecodeOptions(allow_truncated=True))
    assert (decoded.width, decoded.height) == (320, 240)
    assert error_of(cut).error_type == "truncated"  # and the option is not remembered
    assert "--allow-truncated" in error_of(cut).message


def test_allow_truncated_is_what_the_published_evaluation_does_grey_below_the_cut() -> None:
    data = ENCODED["JPEG"]()
    pixels = decode_image(data[: len(data) // 2], DecodeOptions(allow_truncated=True)).pixels
    np.testing.assert_array_equal(pixels[:100], decode_image(data).pixels[:100])
    assert set(np.unique(pixels[-20:])) == {128}


@pytest.mark.parametrize("name", ["WebP", "AVIF", "LZW TIFF", "PNG"])
def test_too_little_for_allow_truncated_says_so(name: str) -> None:
    error = error_of(ENCODED[name]()[:20], DecodeOptions(allow_truncated=True))
    assert error.error_type == "truncated"
    assert error.message.endswith("(20 bytes). Too little of it is there to be decoded.")


def test_flipped_bytes_are_corrupt() -> None:
    data = bytearray(ENCODED["PNG"]())
    data[len(data) // 2] ^= 0xFF
    error = error_of(bytes(data))
    assert error.error_type == "corrupt"
    assert error.message.startswith("The PNG file cannot be decoded: ")
    header = bytearray(ENCODED["PNG"]())
    header[20] ^= 0xFF
    assert error_of(bytes(header)).error_type == "corrupt"


def test_a_header_that_makes_no_sense_is_corrupt_in_the_same_words_each_time() -> None:
    data = ENCODED["BMP"]()
    nonsense = data[:14] + b"\xff\xff\0\0" + data[18:]
    assert error_of(nonsense).message == error_of(nonsense).message
    assert error_of(nonsense).error_type == "corrupt"


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    source=st.sampled_from([*golden_images(), *ENCODED]),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=20),
    head_flips=st.lists(st.tuples(st.integers(0, 63), st.integers(1, 255)), max_size=3),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
    options=st.builds(
        DecodeOptions,
        decode=st.sampled_from(["exact", "fast"]),
        allow_truncated=st.booleans(),
        exif_rotate=st.booleans(),
        max_pixels=st.just(4_000_000),
    ),
)
@pytest.mark.timeout(120)
def test_whatever_the_bytes_there_are_pixels_or_an_image_error(
    source: Path | str,
    flips: list[tuple[float, int]],
    head_flips: list[tuple[int, int]],
    kept: float,
    options: DecodeOptions,
) -> None:
    data = bytearray(source.read_bytes() if isinstance(source, Path) else ENCODED[source]())
    for position, mask in [(int(share * len(data)), mask) for share, mask in flips] + head_flips:
        data[position % len(data)] ^= mask
    result = pixels_or_error(bytes(data[: int(kept * len(data))]), options)
    if isinstance(result, ImageError):
        assert result.error_type in IMAGE_ERROR_TYPES
        assert result.message
    else:
        assert result.shape == (448, 448, 3)
        assert result.dtype == np.uint8


# Options


def test_what_changes_a_pixel_is_in_the_version_and_no_limit_is() -> None:
    limits = DecodeOptions(max_bytes=1, max_pixels=1, decoder_timeout_s=1, decoder_memory_bytes=1)
    assert DecodeOptions().version == limits.version == "rgb-bicubic-448/1"
    everything = DecodeOptions(decode="fast", allow_truncated=True, exif_rotate=True)
    assert everything.version == "rgb-bicubic-448/1+fast-decode+allow-truncated+exif-rotate"


@pytest.mark.parametrize(
    "arguments",
    [
        {"decode": "slow"},
        {"max_bytes": 0},
        {"max_pixels": -1},
        {"decoder_timeout_s": 0},
        {"decoder_timeout_s": math.nan},
        {"decoder_timeout_s": math.inf},
        {"decoder_memory_bytes": 0},
    ],
)
def test_options_that_mean_nothing_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--"):
        DecodeOptions(**arguments)


# Perceptual hash


def hash_distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


@pytest.mark.parametrize("path", golden_images(), ids=lambda path: path.name)
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_perceptual_hash_of_a_resized_copy_differs_in_few_bits(path: Path, scale: float) -> None:
    with Image.open(path) as image:
        smaller = image.convert("RGB").resize((int(image.width * scale), int(image.height * scale)))
    copy = decode_image(encode(smaller, "JPEG", quality=80))
    assert hash_distance(copy.phash, decode_image(path.read_bytes()).phash) <= 8


def test_the_perceptual_hashes_of_different_pictures_differ_in_many_bits() -> None:
    hashes = [decode_image(path.read_bytes()).phash for path in golden_images()]
    assert all(len(phash) == 16 for phash in hashes)
    assert min(hash_distance(one, other) for n, one in enumerate(hashes) for other in hashes[:n]) >= 16


def test_a_picture_of_one_colour_has_a_hash_without_noise() -> None:
    hashes = {perceptual_hash(np.full((448, 448, 3), grey, np.uint8)) for grey in range(1, 256)}
    assert hashes == {"8000000000000000"}


@pytest.mark.parametrize("seed", range(4))
def test_the_frequencies_of_a_hash_are_those_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for high, wide in rng.integers(1, 33, (50, 2)):
        grey = Image.fromarray(rng.integers(0, 256, (high, wide), np.uint8)).resize((32, 32))
        rows = np.asarray(grey, dtype=np.float64)
        np.testing.assert_allclose(lowest_frequencies(rows), fft.dctn(rows)[:8, :8], rtol=0, atol=1e-9)


@pytest.mark.parametrize("path", golden_images(), ids=lambda path: path.name)
def test_a_hash_is_that_of_a_store_that_was_scored_when_scipy_made_it(path: Path) -> None:
    pixels = decode_image(path.read_bytes()).pixels
    low = fft.dctn(np.asarray(Image.fromarray(pixels).convert("L").reduce(14), dtype=np.float64))[:8, :8]
    assert perceptual_hash(pixels) == np.packbits(low > np.median(low)).tobytes().hex()
