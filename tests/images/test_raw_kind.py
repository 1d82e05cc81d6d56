"""Camera RAW files are called by their kind, and their thumbnails are never scored."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.raw_files import ASCII, LONG, dng, nef, rgb, sensor, tiff

from artimuse_actor.errors import ImageError
from artimuse_actor.images.decode import decode_image
from artimuse_actor.images.raw_kind import raw_kind

RAWS = {
    "NEF": (nef(), "NEF"),
    "NEF, the other byte order": (nef(order=">"), "NEF"),
    "ARW": (nef("SONY"), "ARW"),
    "SRW": (nef("SAMSUNG"), "SRW"),
    "3FR": (nef("Hasselblad"), "3FR"),
    "of no maker that is known": (nef("ACME"), "RAW"),
    "DNG": (dng(), "DNG"),
    "PEF": (tiff({**sensor(compression=65535), 271: (ASCII, "PENTAX Corporation")}), "PEF"),
    "compressed by its maker": (
        tiff({**rgb(is_thumbnail=True), 271: (ASCII, "SONY")}, below=[{**rgb(), 259: (LONG, [32767])}]),
        "ARW",
    ),
    "CR2": (b"II*\0\x10\0\0\0CR\x02\0" + bytes(4) + tiff(rgb())[8:], "CR2"),
    "IIQ": (b"II*\0\x10\0\0\0IIII" + bytes(200), "IIQ"),
    "ORF": (b"IIRO\x08\0\0\0" + bytes(200), "ORF"),
    "RW2": (b"IIU\0\x18\0\0\0" + bytes(200), "RW2"),
    "RAF": (b"FUJIFILMCCD-RAW 0201" + bytes(200), "RAF"),
    "CR3": (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom" + bytes(200), "CR3"),
    "CRW": (b"II\x1a\0\0\0HEAPCCDR" + bytes(200), "CRW"),
    "X3F": (b"FOVb\x03\0\x02\0" + bytes(200), "X3F"),
    "in-camera TIFF": (tiff(rgb(is_thumbnail=True), below=[rgb(640, 480)]), "TIFF that begins with a thumbnail"),
    "TIFF with the picture behind": (
        tiff(rgb(is_thumbnail=True), rgb(640, 480)),
        "TIFF that begins with a thumbnail",
    ),
}


@pytest.mark.parametrize("name", RAWS)
def test_a_raw_file_is_called_by_its_kind_and_its_thumbnail_is_not_scored(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artimuse_actor.images.decode.can_read_raw", lambda: False)
    data, kind = RAWS[name]
    with pytest.raises(ImageError, match=f"The file is {kind}[ ,]") as caught:
        decode_image(data)
    assert caught.value.error_type == "unsupported_format"


def test_pillow_itself_would_take_the_thumbnail() -> None:
    for data in (nef(), dng()):
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (32, 24)


@pytest.mark.parametrize(
    "data",
    [
        tiff(rgb()),
        tiff(rgb(), order=">"),
        tiff({**rgb(), 271: (ASCII, "NIKON CORPORATION")}),  # a converter's
        tiff(rgb(), rgb(16, 12, is_thumbnail=True)),  # as Photoshop's, behind the picture
        tiff(rgb(), below=[rgb(16, 12, is_thumbnail=True)]),  # a pyramid
        tiff(rgb(is_thumbnail=True)),  # there is no other picture
    ],
)
def test_other_tiffs_are_read(data: bytes) -> None:
    assert raw_kind(data) is None
    assert decode_image(data).pixels[0, 0].tolist() == [200, 100, 50]


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([nef(), dng(), nef(order=">"), tiff(rgb(), rgb()), b"II+\0\x08\0\0\0" + b"\xff" * 400]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=8),
    st.floats(0, 1),
)
def test_damaged_directories_are_no_error_here(data: bytes, changes: list[tuple[float, bytes]], kept: float) -> None:
    changed = bytearray(data)
    for share, what in changes:
        at = 4 + int(share * (len(changed) - 12))
        changed[at : at + len(what)] = what
    raw_kind(bytes(changed[: int(kept * len(changed))]))
