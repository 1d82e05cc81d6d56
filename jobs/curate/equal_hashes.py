"""Equal pictures, found by their hashes; this module knows nothing of files, scores or ids."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

NO_CODE: Final = np.uint64(0)
"""For pictures without a hash. A picture whose hash is 0 is like no other; one in 2^64, or a plain one."""

_NO_DIGIT: Final = 255
_DIGIT_VALUES: Final = np.full(256, _NO_DIGIT, dtype=np.uint8)
for _value, _digit in enumerate(b"0123456789abcdef"):
    _DIGIT_VALUES[_digit] = _value

Codes = NDArray[np.uint64]
Rows = NDArray[np.int64]


def hash_words(strings: pa.ChunkedArray, digits: int) -> tuple[Codes, NDArray[np.bool_]]:
    """Hexadecimal strings as numbers.

    Args:
        strings: (N,) strings; one that is null or has another length is no hash.
        digits: of each, 16 or more; the first 32 count.

    Returns:
        (N, 1 or 2) uint64, and (N,) whether each is a hash.
    """
    one = strings.combine_chunks()
    whole = pc.fill_null(pc.equal(pc.binary_length(one), digits), False)
    zeros = pc.if_else(whole, one, "0" * digits)
    text = np.frombuffer(zeros.cast(pa.binary(digits)).buffers()[1], dtype=np.uint8, count=len(one) * digits)
    values = _DIGIT_VALUES[text.reshape(len(one), digits)[:, : min(digits, 32)]]  # (N, 16 or 32)
    known = np.asarray(whole) & (values != _NO_DIGIT).all(axis=1)
    packed = np.ascontiguousarray(values[:, ::2] << 4 | values[:, 1::2])
    return packed.view(">u8").astype(np.uint64), known


def hash_codes(strings: pa.ChunkedArray, digits: int) -> Codes:
    """The first 64 bits of N hexadecimal hashes of so many digits; `NO_CODE` for invalid ones: (N,)."""
    words, known = hash_words(strings, digits)
    return np.where(known, words[:, 0], NO_CODE)


def first_of_equals(words: Codes) -> Rows:
    """For each row of (N, K) the place of the first row that equals it: (N,)."""
    order = np.lexsort(words.T[::-1])  # stable: of equal rows the first stays first
    ordered = words[order]
    begins = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)][: len(words)])
    first = np.empty(len(words), dtype=np.int64)
    first[order] = np.repeat(order[begins], np.diff(np.r_[begins, len(words)]))
    return first


def leaders(codes: Codes) -> Rows:
    """For each of N hashes the place of the first that equals it, its own if it is the first or has none: (N,)."""
    return np.where(codes == NO_CODE, np.arange(len(codes)), first_of_equals(codes[:, None]))


def largest_groups(leader: Rows, count: int) -> list[Rows]:
    """The groups with most members, up to so many, each with its leader first; equal ones in the order of leaders."""
    members = np.flatnonzero(leader != np.arange(len(leader)))
    heads, sizes = np.unique(leader[members], return_counts=True)
    order = np.argsort(leader[members], kind="stable")
    starts = np.cumsum(sizes) - sizes
    best = np.argsort(-sizes, kind="stable")[:count]
    return [np.r_[heads[at], members[order][starts[at] : starts[at] + sizes[at]]] for at in best]
