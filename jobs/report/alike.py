"""Pictures that are the same, told from their hashes; it knows nothing of files, scores or ids."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

NO_CODE: Final = np.uint64(0)
"""For pictures without a hash. A picture whose hash is 0 is like no other; one in 2^64, or a plain one."""

CODE_DIGITS: Final = 16
_DIGITS: Final = np.zeros(256, dtype=np.uint8)
for _value, _digit in enumerate(b"0123456789abcdef"):
    _DIGITS[_digit] = _value

Codes = NDArray[np.uint64]
Rows = NDArray[np.int64]


def hash_codes(column: pa.ChunkedArray) -> Codes:
    """The first 64 bits of N hexadecimal hashes; what is null, or shorter, becomes `NO_CODE`: (N,)."""
    if not len(column):
        return np.empty(0, dtype=np.uint64)
    whole = pc.fill_null(pc.greater_equal(pc.binary_length(column), CODE_DIGITS), False)
    digits = pc.binary_slice(pc.if_else(whole, column, "0" * CODE_DIGITS).cast(pa.binary()), 0, CODE_DIGITS)
    fixed = digits.cast(pa.binary(CODE_DIGITS)).combine_chunks()
    text = np.frombuffer(fixed.buffers()[1], dtype=np.uint8, count=CODE_DIGITS * len(column))
    values = _DIGITS[text.reshape(-1, CODE_DIGITS)]  # (N, 16)
    return (values[:, ::2] << 4 | values[:, 1::2]).view(">u8")[:, 0].astype(np.uint64)


def leaders(codes: Codes) -> Rows:
    """For each of N hashes the place of the first that equals it, its own if it is the first or has none: (N,)."""
    order = np.argsort(codes, kind="stable")  # so that of equals the first comes first
    ordered = codes[order]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(codes)])
    found = np.empty(len(codes), dtype=np.int64)
    found[order] = np.repeat(order[begins], np.diff(np.r_[begins, len(codes)]))
    none = np.flatnonzero(codes == NO_CODE)
    found[none] = none
    return found


def largest_groups(leader: Rows, count: int) -> list[Rows]:
    """The groups with most members, up to so many, each with its leader first; equal ones in the order of leaders."""
    members = np.flatnonzero(leader != np.arange(len(leader)))
    heads, sizes = np.unique(leader[members], return_counts=True)
    order = np.argsort(leader[members], kind="stable")
    starts = np.cumsum(sizes) - sizes
    best = np.argsort(-sizes, kind="stable")[:count]
    return [np.r_[heads[at], members[order][starts[at] : starts[at] + sizes[at]]] for at in best]
