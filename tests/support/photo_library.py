"""A folder as it is in real life: odd names, odd formats, broken files; and what each file must come to."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from pathlib import Path

from PIL import Image
from support.paths import GOLDEN

IMAGES = GOLDEN / "artimuse" / "images"

ODD_NAMES = (
    "with blank.jpg",
    "quote'\".jpg",
    "per%20cent.jpg",
    "hash#tag.jpg",
    "q?uery.jpg",
    "star*.jpg",
    "[1].jpg",
    "emoji😀.jpg",
    "new\nline.jpg",
    "caf\u00e9.jpg",
    "cafe\u0301.jpg",
    "_DSC0001.JPG",
    "-dash.jpg",
    "semi;colon&amp.jpg",
)
LONG_NAME = f"{'d' * 200}/{'e' * 90}/{'f' * 100}.jpg"


def make_photo_library(folder: Path) -> dict[str, str]:
    """Fill a folder; returns image_id → `ok` or the type of its error, for each row there must be."""
    folder.mkdir(parents=True)
    photo = (IMAGES / "01_rgb_640x480.jpg").read_bytes()
    expected = {}
    (folder / LONG_NAME).parent.mkdir(parents=True)
    for name in (*ODD_NAMES, LONG_NAME):
        (folder / name).write_bytes(photo)
        expected[name] = "ok"
    for name in ("06_palette.png", "07_rgba.png", "08_cmyk.jpg", "10_exif6.jpg", "12_gray16.png"):
        shutil.copy(IMAGES / name, folder / name)
        expected[name] = "ok"
    picture = Image.open(IMAGES / "00_rgb_448x448.jpg")
    for name in ("moving.gif", "moving.webp", "still.avif", "still.jp2", "still.tiff", "still.bmp", "still.ppm"):
        if name.startswith("moving"):
            picture.save(folder / name, save_all=True, append_images=[picture.rotate(90)])
        else:
            picture.save(folder / name)
        expected[name] = "ok"
    for name, data, error in (
        ("zero.jpg", b"", "empty"),
        ("cut.jpg", photo[: len(photo) // 2], "truncated"),
        ("text.jpg", b"Dear diary,\n", "not_an_image"),
        ("bomb.png", bomb(20_000, 10_000), "too_large"),
        ("phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "corrupt"),
    ):
        (folder / name).write_bytes(data)
        expected[name] = error
    (folder / "x.jpg").mkdir()
    expected["x.jpg"] = "not_a_file"
    os.mkfifo(folder / "pipe.jpg")
    expected["pipe.jpg"] = "not_a_file"
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    expected["dangling.jpg"] = "missing"
    (folder / "notes.txt").write_text("no picture, and not called like one")
    return expected


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes that would take width × height bits to decode."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def make_photos(folder: Path, count: int) -> list[str]:
    """Fill a folder with that many small photos, all different; returns their names in order."""
    folder.mkdir(parents=True)
    photo = (IMAGES / "04_rgb_37x53.jpg").read_bytes()
    names = [f"{number:04}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(photo + number.to_bytes(4, "big"))  # bytes after the end of a JPEG are ignored
    return names
