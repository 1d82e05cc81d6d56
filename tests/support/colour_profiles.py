"""ICC profiles, written from their numbers: primaries, white point and curve, as in the files of cameras and phones."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
from PIL import Image, ImageCms

_D50: Final = np.array([0.9642, 1.0, 0.8249])
_D65: Final = (0.3127, 0.3290)
_BRADFORD: Final = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

_LEVELS: Final = np.linspace(0, 1, 1024)
SRGB_CURVE: Final = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)

SRGB_PRIMARIES: Final = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
P3_PRIMARIES: Final = ((0.680, 0.320), (0.265, 0.690), (0.15, 0.06))
ADOBE_PRIMARIES: Final = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))


def rgb_profile(primaries: Sequence[tuple[float, float]], curve: float | Sequence[float]) -> bytes:
    """An RGB profile with a white point of D65; its curve is a gamma, or a table of linear light from 0 to 1."""

    def xyz(x: float, y: float) -> np.ndarray:
        return np.array([x / y, 1.0, (1 - x - y) / y])

    columns, white = np.stack([xyz(*primary) for primary in primaries], axis=1), xyz(*_D65)
    columns = columns * np.linalg.solve(columns, white)
    adapted = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white)) @ _BRADFORD @ columns
    colorants = {name: _xyz(adapted[:, n]) for n, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    return _profile(b"RGB ", colorants | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(curve)))


def grey_profile(curve: float) -> bytes:
    """A grey profile of this gamma."""
    return _profile(b"GRAY", {b"kTRC": _curve(curve)})


@cache
def display_p3() -> bytes:
    """Display P3, as in the pictures of phones."""
    return rgb_profile(P3_PRIMARIES, SRGB_CURVE.tolist())


@cache
def adobe_rgb() -> bytes:
    """Adobe RGB (1998)."""
    return rgb_profile(ADOBE_PRIMARIES, 563 / 256)


@cache
def cmyk_profile() -> bytes:
    """A press whose inks are those of Pillow's own formula, but at half their strength."""
    grid = np.stack(np.meshgrid(*[[0, 255]] * 4, indexing="ij"), axis=-1).reshape(16, 4)  # K changes fastest
    ink = grid / 255 / 2
    rgb = (255 * (1 - ink[:, :3]) * (1 - ink[:, 3:])).round().astype(np.uint8)
    lab = ImageCms.profileToProfile(
        Image.fromarray(rgb[None]),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="LAB",
    )
    assert lab is not None
    nodes = np.asarray(lab)[0] ^ np.array([0, 128, 128], np.uint8)  # Pillow's a and b are signed
    steps = bytes([0, 255])
    identity = struct.pack(">9l", *(round(65536 * value) for value in np.eye(3).ravel()))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity
    table += bytes(range(256)) * 4 + nodes.tobytes() + bytes(range(256)) * 3
    assert len(steps) ** 4 == len(nodes)
    return _profile(b"CMYK", {b"A2B0": table}, pcs=b"Lab ", device=b"prtr")


def _xyz(values: Sequence[float] | np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(struct.pack(">l", round(65536 * float(value))) for value in values)


def _curve(curve: float | Sequence[float]) -> bytes:
    if isinstance(curve, int | float):
        return b"curv" + bytes(4) + struct.pack(">LHxx", 1, round(256 * curve))
    values = b"".join(struct.pack(">H", round(65535 * value)) for value in curve)
    return b"curv" + bytes(4) + struct.pack(">L", len(curve)) + values


def _profile(space: bytes, tags: dict[bytes, bytes], pcs: bytes = b"XYZ ", device: bytes = b"mntr") -> bytes:
    name = b"made in a test\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">L", len(name)) + name + bytes(79),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": _xyz(_D50),
        **tags,
    }
    start = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">L", len(tags)), b""
    for tag, data in tags.items():
        table += tag + struct.pack(">LL", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">L4xL4s4s4s", start + len(body), 0x02200000, device, space, pcs)
    head += struct.pack(">6H4s28x", 2026, 1, 1, 0, 0, 0, b"acsp") + _xyz(_D50)[8:]
    return head.ljust(128, b"\0") + table + body
