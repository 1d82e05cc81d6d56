"""Camera RAW files, developed with the extra `raw`."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.golden import golden_images
from support.raw_files import LONG, dng, rgb, tiff
from support.score_job import golden_options, run_artimuse, run_score, table_rows

from artimuse_actor.errors import ImageError
from artimuse_actor.images.child_decoder import ChildDecoder
from artimuse_actor.images.decode import decode_image
from artimuse_actor.images.options import DecodeOptions

PHOTO = DecodeOptions(preprocess="photo")


def jpeg(width: int, height: int, orientation: int | None = None) -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    with Image.open(golden_images()[3]) as image:
        image.convert("RGB").resize((width, height)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def with_preview(preview: bytes, orientation: int = 1) -> bytes:
    """A DNG with a JPEG of the camera's beside its thumbnail."""
    return dng(orientation, preview)


def error_of(data: bytes, options: DecodeOptions = DecodeOptions()) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_image(data, options)
    return caught.value


def test_a_raw_without_a_preview_is_developed_at_half_its_size() -> None:
    decoded = decode_image(dng())
    assert (decoded.width, decoded.height, decoded.format) == (128, 96, "DNG")
    left, right = decoded.pixels[:, :100].mean((0, 1)), decoded.pixels[:, -100:].mean((0, 1))
    assert (right > left + 30).all()  # the sensor's picture, not the thumbnail of one colour
    assert right[0] > right[2] + 20  # and not blue
    assert decoded.warning is None


def test_the_preview_of_the_camera_is_taken_if_it_is_large_enough() -> None:
    with_large, with_small = decode_image(with_preview(jpeg(256, 192))), decode_image(with_preview(jpeg(100, 75)))
    assert (with_large.width, with_large.height, with_large.format) == (256, 192, "DNG")
    np.testing.assert_array_equal(with_large.pixels, decode_image(jpeg(256, 192)).pixels)
    np.testing.assert_array_equal(with_small.pixels, decode_image(dng()).pixels)


def test_a_damaged_preview_is_not_taken() -> None:
    damaged = with_preview(jpeg(256, 192)[:2000].ljust(5000, b"\0"))
    np.testing.assert_array_equal(decode_image(damaged).pixels, decode_image(dng()).pixels)


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("preview", [None, jpeg(256, 192)], ids=["developed", "preview"])
def test_a_raw_lies_as_its_sensor_did_unless_photo_turns_it(orientation: int, preview: bytes | None) -> None:
    upright, lying = decode_image(dng(1, preview)), decode_image(dng(orientation, preview))
    np.testing.assert_array_equal(lying.pixels, upright.pixels)
    assert lying.warning == "exif_rotated"
    turned = decode_image(dng(orientation, preview), PHOTO)
    quarter = orientation != 3
    assert (turned.width, turned.height) == (lying.height, lying.width) if quarter else (lying.width, lying.height)
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}[orientation]
    expected = np.asarray(Image.fromarray(upright.pixels).transpose(turn)).astype(int)
    assert np.abs(turned.pixels - expected).mean() < 2
    assert turned.warning is None


def test_a_preview_with_its_own_orientation_is_turned_once() -> None:
    turned = decode_image(with_preview(jpeg(256, 192, orientation=6), orientation=6), PHOTO)
    upright = decode_image(with_preview(jpeg(256, 192)), PHOTO)
    expected = np.asarray(Image.fromarray(upright.pixels).transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(turned.pixels - expected).mean() < 2


def test_the_limits_hold_before_anything_is_developed() -> None:
    error = error_of(dng(), DecodeOptions(max_pixels=256 * 192 - 1))
    assert (error.error_type, error.message[:9]) == ("too_large", "256 × 192")
    decode_image(dng(), DecodeOptions(max_pixels=256 * 192))


def test_a_raw_of_no_camera_that_is_known_is_named() -> None:
    error = error_of(tiff(rgb(is_thumbnail=True), below=[{**rgb(), 259: (LONG, [34713])}]))
    assert error.error_type == "unsupported_format"
    assert error.message == "The file is RAW, of a camera that LibRaw does not know. Convert it to JPEG."


def test_a_raw_that_is_cut_off_is_an_error_or_what_is_there() -> None:
    data = dng()
    for share in (0.1, 0.5, 0.9):
        with suppress(ImageError):
            assert decode_image(data[: int(share * len(data))]).format == "DNG"


@pytest.mark.process
def test_a_child_process_develops_the_same() -> None:
    with ChildDecoder(DecodeOptions()) as child:
        for data in (dng(), with_preview(jpeg(256, 192))):
            np.testing.assert_array_equal(child.decode(data).pixels, decode_image(data).pixels)


@pytest.mark.process
def test_raws_that_failed_are_scored_when_the_extra_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    (photos / "a.dng").write_bytes(dng())
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text("import sys; sys.modules['rawpy'] = None")
    with monkeypatch.context() as without:
        without.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "without"), os.environ.get("PYTHONPATH", "")]))
        without.setitem(sys.modules, "rawpy", None)
        (row,) = json.loads(run_artimuse("image", photos / "a.dng", *golden_options(), "--json", code=1).stdout)
        assert row["error_type"] == "unsupported_format"
        assert row["error_message"].endswith("Convert it to JPEG, or install the extra `raw`.")
        run_score(photos, out)
    stored = table_rows(out)["a.dng"]["error_message"]
    assert stored.endswith("install the extra `raw` and run again with --retry-errors unsupported_format.")
    run_artimuse("report", out, "--out", tmp_path / "report.html")
    assert "--retry-errors unsupported_format" in (tmp_path / "report.html").read_text()
    assert "Nothing to do" in run_score(photos, out)
    run_score(photos, out, "--retry-errors", "unsupported_format")
    row = table_rows(out)["a.dng"]
    assert (row["status"], row["format"]) == ("ok", "DNG")
    run_artimuse("curate", out, "--top", "1", "--as", "webdataset", "--out", tmp_path / "best")
    assert b".dng" in (tmp_path / "best" / "00000.tar").read_bytes()[:100]
