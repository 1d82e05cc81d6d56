"""When, with what and how a picture was taken: EXIF of several formats, odd and hostile."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import ExifTags, Image

from artimuse_actor.images.child_decoder import ChildDecoder
from artimuse_actor.images.decode import DecodedImage, decode_image
from artimuse_actor.images.options import DecodeOptions

BASE = ExifTags.Base
TIMES: dict[int, Any] = {BASE.DateTimeOriginal: "2026:11:23 14:03:12", BASE.SubsecTimeOriginal: "25"}


def _file(format_name: str, times: dict[int, Any], **base: Any) -> bytes:
    exif = Image.Exif()
    for name, value in base.items():
        exif[getattr(BASE, name)] = value
    exif.get_ifd(ExifTags.IFD.Exif).update(times)
    whole, file = Image.Exif(), io.BytesIO()
    whole.load(exif.tobytes())
    given = whole.tobytes() if format_name == "JXL" else whole
    Image.new("RGB", (40, 30), "teal").save(file, format_name, exif=given)
    return file.getvalue()


def _about(image: DecodedImage) -> tuple[str | None, str | None, int | None]:
    return image.taken_at, image.camera, image.orientation


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "JXL"])
def test_formats_say_when_and_with_what_they_were_taken(format_name: str) -> None:
    data = _file(format_name, TIMES, Make="Canon", Model="Canon EOS R5", Orientation=6)
    taken_at, camera, orientation = _about(decode_image(data))
    assert (taken_at, camera) == ("2026-11-23T14:03:12.250000", "Canon EOS R5")
    assert orientation in ((6, 1, None) if format_name in ("HEIF", "JXL") else (6,))  # their plugins turn pictures


@pytest.mark.parametrize(
    ("times", "taken_at"),
    [
        ({BASE.DateTimeOriginal: "2026:11:23 14:03:12"}, "2026-11-23T14:03:12"),
        ({BASE.DateTimeDigitized: "2026:11:23 14:03:12", BASE.SubsecTimeDigitized: "5"}, "2026-11-23T14:03:12.500000"),
        ({**TIMES, BASE.SubsecTimeOriginal: "x\0\x1b[2J"}, "2026-11-23T14:03:12"),
        ({**TIMES, BASE.SubsecTimeOriginal: "999999999999"}, "2026-11-23T14:03:12.999999"),
        ({BASE.DateTimeOriginal: "0000:00:00 00:00:00"}, None),
        ({BASE.DateTimeOriginal: "    :  :     :  :  "}, None),
        ({BASE.DateTimeOriginal: "yesterday"}, None),
        ({}, None),
    ],
)
def test_times_as_cameras_write_them(times: dict[int, Any], taken_at: str | None) -> None:
    assert _about(decode_image(_file("JPEG", times, DateTime="2026:12:01 00:00:00"))) == (taken_at, None, None)


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("NIKON CORPORATION", "NIKON Z 8", "NIKON Z 8"),
        ("Apple", "iPhone 15", "Apple iPhone 15"),
        ("FUJIFILM\0\0\0", " X-T5   ", "FUJIFILM X-T5"),
        ("Odd\x1b[2J\n", "", "Odd [2J"),
        ("", "x" * 10_000, "x" * 100),
        ("", "", None),
    ],
)
def test_cameras_are_named_once_and_without_what_cannot_be_printed(make: str, model: str, camera: str | None) -> None:
    assert decode_image(_file("JPEG", {}, Make=make, Model=model)).camera == camera


def test_pictures_whose_exif_is_broken_are_decoded_all_the_same() -> None:
    data = _file("JPEG", TIMES, Make="Canon", Orientation=77)
    assert decode_image(data).orientation is None
    start = data.index(b"Exif\0\0") + 6
    for place in range(start, start + 60, 3):
        damaged = data[:place] + b"\xff\xff" + data[place + 2 :]
        assert decode_image(damaged).pixels.shape == (448, 448, 3)


@pytest.mark.process
def test_a_child_decoder_says_the_same() -> None:
    data = _file("JPEG", TIMES, Make="Canon", Model="R5", Orientation=3)
    with ChildDecoder(DecodeOptions()) as child:
        assert _about(child.decode(data)) == _about(decode_image(data)) == ("2026-11-23T14:03:12.250000", "Canon R5", 3)
