"""Camera RAW files, recognised by their first bytes and, in the many that are TIFF files, by their directories.

Pillow would open such a TIFF and return its first directory, which is a thumbnail of 160 pixels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

_MAGIC: Final = (
    (0, b"FUJIFILMCCD-RAW", "RAF"),
    (4, b"ftypcrx ", "CR3"),
    (6, b"HEAPCCDR", "CRW"),
    (0, b"FOVb", "X3F"),
    (0, b"\0MRM", "MRW"),
    (0, b"IIRO", "ORF"),
    (0, b"IIRS", "ORF"),
    (0, b"MMOR", "ORF"),
    (0, b"IIU\0", "RW2"),
)
_TIFF_MAGIC: Final = ((8, b"CR\x02", "CR2"), (8, b"IIII", "IIQ"), (8, b"MMMM", "IIQ"))
_MAKERS: Final = {
    **{"NIKON": "NEF", "SONY": "ARW", "PENTAX": "PEF", "RICOH": "PEF", "SAMSUNG": "SRW", "HASSELBLAD": "3FR"},
    **{"SEIKO EPSON": "ERF", "EASTMAN KODAK": "DCR", "KODAK": "DCR", "MAMIYA": "MEF", "LEAF": "MOS"},
    **{"OLYMPUS": "ORF", "PANASONIC": "RW2", "LEICA": "RWL", "CANON": "CR2", "PHASE ONE": "IIQ"},
}
RAW_KINDS: Final = frozenset(("DNG", "RAW", *(kind for _, _, kind in (*_MAGIC, *_TIFF_MAGIC)), *_MAKERS.values()))
"""What cameras write; a TIFF that begins with a thumbnail is none of them."""

_SUBFILE, _OLD_SUBFILE, _COMPRESSION, _PHOTOMETRIC, _MAKE, _SUB_DIRECTORIES, _DNG_VERSION = (
    *(254, 255, 259, 262, 271, 330, 50706),
)
_OF_SENSORS: Final = (32803, 34892)  # photometric: colour filter array, linear
_OF_MAKERS: Final = (32767, 32769, 32770, 34713, 65000, 65535)  # compressions of Sony, Samsung, Nikon, Kodak, Pentax

_NUMBERS: Final = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q", 18: "Q"}
_MOST_ENTRIES: Final = 512
_MOST_VALUES: Final = 64
_MOST_DIRECTORIES: Final = 16

_Directory = Mapping[int, tuple[int, ...] | bytes]


def raw_kind(data: bytes) -> str | None:
    """The kind of camera RAW that a file is, such as `NEF`; None if it is none.

    A TIFF whose first directory says that it is a thumbnail of another picture in the file is a kind of its own.
    """
    for offset, magic, kind in _MAGIC:
        if data.startswith(magic, offset):
            return kind
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return None
    for offset, magic, kind in _TIFF_MAGIC:
        if data.startswith(magic, offset):
            return kind
    try:
        return _tiff_kind(_Tiff(data))
    except struct.error:  # a directory lies beyond the end: whoever decodes it will say so
        return None


def _tiff_kind(tiff: _Tiff) -> str | None:
    first, following = tiff.directory(tiff.first_offset)
    if _DNG_VERSION in first:
        return "DNG"
    below = [tiff.directory(offset)[0] for offset in _values(first, _SUB_DIRECTORIES)[:_MOST_DIRECTORIES]]
    if any(
        _value(directory, _PHOTOMETRIC) in _OF_SENSORS or _value(directory, _COMPRESSION) in _OF_MAKERS
        for directory in (first, *below)
    ):
        return _kind_of_maker(first)
    is_thumbnail = bool(_value(first, _SUBFILE) & 1) or _value(first, _OLD_SUBFILE) == 2
    return "TIFF that begins with a thumbnail" if is_thumbnail and (below or following) else None


def _kind_of_maker(directory: _Directory) -> str:
    make = directory.get(_MAKE, b"")
    name = make.decode("ascii", errors="replace").upper() if isinstance(make, bytes) else ""
    return next((kind for maker, kind in _MAKERS.items() if name.startswith(maker)), "RAW")


def _values(directory: _Directory, tag: int) -> tuple[int, ...]:
    found = directory.get(tag, ())
    return found if isinstance(found, tuple) else ()


def _value(directory: _Directory, tag: int) -> int:
    return next(iter(_values(directory, tag)), 0)


class _Tiff:
    """The directories of a TIFF or BigTIFF file; of each entry a few values, and of all others none."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order = "<" if data[:2] == b"II" else ">"
        self._is_big = 43 in data[2:4]
        self._word = "Q" if self._is_big else "L"
        (self.first_offset,) = self._at(8 if self._is_big else 4, self._word)

    def directory(self, offset: int) -> tuple[_Directory, int]:
        """Tag → values of one directory, and the offset of the next one. Raises struct.error."""
        count_format = "Q" if self._is_big else "H"
        (count,) = self._at(offset, count_format)
        start, size = offset + struct.calcsize(f"={count_format}"), 20 if self._is_big else 12
        entries = dict(self._entries(start, size, min(count, _MOST_ENTRIES)))
        end = start + size * count
        return entries, self._at(end, self._word)[0] if end + size <= len(self._data) else 0

    def _entries(self, start: int, size: int, count: int) -> Iterator[tuple[int, tuple[int, ...] | bytes]]:
        for place in range(start, start + size * count, size):
            tag, kind, values = self._at(place, f"HH{self._word}")
            values = min(values, _MOST_VALUES)
            layout = f"{values}s" if kind == 2 else f"{values}{_NUMBERS.get(kind, '')}"
            if kind != 2 and kind not in _NUMBERS:
                continue
            inline = place + (12 if self._is_big else 8)
            fits = struct.calcsize(f"={layout}") <= (8 if self._is_big else 4)
            try:
                found = self._at(inline if fits else self._at(inline, self._word)[0], layout)
            except struct.error:  # its values lie beyond the end
                continue
            yield tag, found[0] if kind == 2 else found

    def _at(self, offset: int, layout: str) -> tuple[Any, ...]:
        if offset > len(self._data):  # perhaps by more than an index of Python's can say
            raise struct.error
        return struct.unpack_from(f"{self._order}{layout}", self._data, offset)
