"""The header of a JPEG XL file: its size, and whether it is an animation.

Pillow's plugin decodes a file when it opens it, and of an animation the last frame, so both must be known before.

Source: ISO/IEC 18181-1, annexes D.2 and D.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_CODESTREAM: Final = b"\xff\x0a"
_CONTAINER: Final = b"\0\0\0\x0cJXL \r\n\x87\n"
_HEADER_BYTES: Final = 64
_MOST_BOXES: Final = 1_000

_SIZES: Final = ((9, 1), (13, 1), (18, 1), (30, 1))  # bits, and what is added to them
_PREVIEW_SIZES: Final = ((6, 1), (8, 65), (10, 321), (12, 1345))
_PREVIEW_EIGHTHS: Final = ((0, 16), (0, 32), (5, 1), (9, 33))
_RATIOS: Final = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


@dataclass(frozen=True)
class JxlHeader:
    """What is known of a JPEG XL file before it is decoded.

    Attributes:
        width: in pixels, before it is turned.
        height: likewise.
        is_animated: whether it has several frames.
    """

    width: int
    height: int
    is_animated: bool


def jxl_header(data: bytes) -> JxlHeader | None:
    """The header of a JPEG XL file; None if it is none, or its header is not all there."""
    if data.startswith(_CODESTREAM):
        codestream = data[:_HEADER_BYTES]
    elif data.startswith(_CONTAINER):
        codestream = _contained(data)
    else:
        return None
    if not codestream.startswith(_CODESTREAM):
        return None
    try:
        return _read(_Bits(codestream[2:]))
    except EOFError:
        return None


def _contained(data: bytes) -> bytes:
    """The first bytes of the codestream in a container, where it may be one box or several parts."""
    codestream = b""
    for name, start, end in _boxes(data):
        if name == b"jxlc":
            return data[start : min(end, start + _HEADER_BYTES)]
        if name == b"jxlp":
            codestream += data[start + 4 : min(end, start + 4 + _HEADER_BYTES)]  # after the number of the part
        if len(codestream) >= _HEADER_BYTES:
            break
    return codestream


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each box's content."""
    offset = 0
    for _ in range(_MOST_BOXES):
        size, start = int.from_bytes(data[offset : offset + 4], "big"), offset + 8
        if size == 1:
            size, start = int.from_bytes(data[offset + 8 : offset + 16], "big"), offset + 16
        end = offset + size if size else len(data)
        if start > len(data) or end < start:
            return
        yield data[offset + 4 : offset + 8], start, end
        offset = end


def _read(bits: _Bits) -> JxlHeader:
    width, height = _size(bits, ((5, 1),), _SIZES)
    if bits.take(1) or not bits.take(1):  # all fields at their defaults, or no further ones
        return JxlHeader(width, height, is_animated=False)
    bits.take(3)  # orientation
    if bits.take(1):
        _size(bits, ((5, 1),), _SIZES)  # the size at which it is to be shown
    if bits.take(1):
        _size(bits, _PREVIEW_EIGHTHS, _PREVIEW_SIZES)
    return JxlHeader(width, height, is_animated=bool(bits.take(1)))


def _size(bits: _Bits, eighths: tuple[tuple[int, int], ...], sizes: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    in_eighths = bool(bits.take(1))

    def side() -> int:
        return 8 * bits.choice(eighths) if in_eighths else bits.choice(sizes)

    height, ratio = side(), bits.take(3)
    if not ratio:
        return side(), height
    numerator, denominator = _RATIOS[ratio - 1]
    return height * numerator // denominator, height


class _Bits:
    """Bytes as bits, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._rest, self._count = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        """The next bits as a number. Raises EOFError."""
        if count > self._count:
            raise EOFError
        value = self._rest & ((1 << count) - 1)
        self._rest >>= count
        self._count -= count
        return value

    def choice(self, layouts: tuple[tuple[int, int], ...]) -> int:
        """A number in one of these layouts, of which two bits say which if there are several."""
        bits, added = layouts[self.take(2) if len(layouts) > 1 else 0]
        return self.take(bits) + added
