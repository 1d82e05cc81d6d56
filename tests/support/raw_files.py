"""Camera RAW files of a few pixels, with the structure that those of cameras have: a thumbnail, and the sensor's."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from PIL import Image

BYTE, ASCII, SHORT, LONG, RATIONAL, SRATIONAL = 1, 2, 3, 4, 5, 10
_LAYOUTS: Final = {BYTE: "B", SHORT: "H", LONG: "L", RATIONAL: "L", SRATIONAL: "l"}

Tags = Mapping[int, tuple[int, Any]]


def tiff(*chain: Tags, below: Sequence[Tags] = (), order: str = "<") -> bytes:
    """A TIFF file of directories one after the other; those `below` are subdirectories of the first.

    A tag is its type and its values: numbers, text, or, of tag 273, the pixels themselves.
    """
    data = bytearray((b"II" if order == "<" else b"MM") + struct.pack(f"{order}HL", 42, 0))
    link, offsets = 4, [_append(data, tags, order)[0] for tags in below]
    for number, tags in enumerate(chain):
        own = {**tags, 330: (LONG, offsets)} if below and not number else tags
        start, following = _append(data, own, order)
        struct.pack_into(f"{order}L", data, link, start)
        link = following
    return bytes(data)


def _append(data: bytearray, tags: Tags, order: str) -> tuple[int, int]:
    """Add a directory; its offset, and the place of the offset of the next one."""
    entries = []
    for tag, (kind, values) in sorted(tags.items()):
        if tag == 273:  # pixels
            data += values + bytes(len(values) % 2)
            entries += [(273, LONG, 1, struct.pack(f"{order}L", len(data) - len(values) - len(values) % 2))]
            entries += [(279, LONG, 1, struct.pack(f"{order}L", len(values)))]
            continue
        packed = (
            values.encode() + b"\0" if kind == ASCII else struct.pack(f"{order}{len(values)}{_LAYOUTS[kind]}", *values)
        )
        count = len(packed) if kind == ASCII else len(values) // (2 if kind in (RATIONAL, SRATIONAL) else 1)
        if len(packed) > 4:
            data += bytes(len(data) % 2)
            data += packed
            packed = struct.pack(f"{order}L", len(data) - len(packed))
        entries.append((tag, kind, count, packed.ljust(4, b"\0")))
    data += bytes(len(data) % 2)
    start = len(data)
    data += struct.pack(f"{order}H", len(entries))
    for tag, kind, count, packed in sorted(entries):
        data += struct.pack(f"{order}HHL", tag, kind, count) + packed
    data += bytes(4)
    return start, len(data) - 4


def rgb(width: int = 32, height: int = 24, *, is_thumbnail: bool = False) -> dict[int, Any]:
    """The tags of a plain RGB picture of one colour."""
    return {
        254: (LONG, [int(is_thumbnail)]),
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [8, 8, 8]),
        259: (SHORT, [1]),
        262: (SHORT, [2]),
        273: (LONG, bytes((200, 100, 50)) * (width * height)),
        277: (SHORT, [3]),
        278: (LONG, [height]),
    }


def sensor(width: int = 256, height: int = 192, compression: int = 1) -> dict[int, Any]:
    """The tags of a sensor's picture behind an RGGB filter, 16 bits a pixel: brighter from left to right, not blue."""
    light = np.tile(np.linspace(2000, 60000, width), (height, 1))
    light[1::2, 1::2] *= 0.3
    return {
        254: (LONG, [0]),
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [16]),
        259: (SHORT, [compression]),
        262: (SHORT, [32803]),
        273: (LONG, light.astype("<u2").tobytes()),
        277: (SHORT, [1]),
        278: (LONG, [height]),
        33421: (SHORT, [2, 2]),
        33422: (BYTE, [0, 1, 1, 2]),
    }


def nef(make: str = "NIKON CORPORATION", order: str = "<") -> bytes:
    """A RAW of many makers: a thumbnail as first directory, and the sensor's picture below it."""
    return tiff({**rgb(is_thumbnail=True), 271: (ASCII, make)}, below=[sensor()], order=order)


def dng(orientation: int = 1, preview: bytes | None = None) -> bytes:
    """A digital negative, complete enough to be developed; with the camera's own JPEG, if one is given."""
    identity = [value for n in range(9) for value in (int(n in (0, 4, 8)), 1)]
    about: dict[int, Any] = {
        271: (ASCII, "Made"),
        272: (ASCII, "in a test"),
        274: (SHORT, [orientation]),
        50706: (BYTE, [1, 4, 0, 0]),
        50707: (BYTE, [1, 1, 0, 0]),
        50708: (ASCII, "Made in a test"),
        50721: (SRATIONAL, identity),
        50728: (RATIONAL, [1, 1, 1, 1, 1, 1]),
        50778: (SHORT, [21]),
    }
    below = [{**sensor(), 50717: (LONG, [65535])}]
    if preview is not None:
        with Image.open(io.BytesIO(preview)) as image:
            width, height = image.size
        below += [{**rgb(width, height, is_thumbnail=True), 259: (SHORT, [7]), 262: (SHORT, [6]), 273: (LONG, preview)}]
    return tiff({**rgb(is_thumbnail=True), **about}, below=below)
