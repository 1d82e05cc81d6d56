"""Agreement of two ways to generate the same texts: where they differ, and whether that is a tie.

Greedy decoding takes the likelier of two tokens however small the difference, and two orders of the same sums differ in
their last bits. So where two texts part, the published forward is asked how far the two tokens are from each other: a
fault in the engine shows as a gap that no rounding makes. What follows the first token that differs tells nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from statistics import median
from typing import Final, TypeAlias

import torch

from bench.engine.published import PublishedTexts

Texts: TypeAlias = Sequence[Sequence[tuple[int, ...]]]
"""Token ids of each text of each image."""

NEVER: Final = -1
"""A stop token that no network generates: all texts are as long as they may be."""

TIE: Final = 1e-3  # logits, whose standard deviation is 2


@dataclass(frozen=True)
class Parting:
    """Two texts that are not equal.

    Attributes:
        image: which.
        question: which.
        token: the first that differs, counted from 0.
    """

    image: int
    question: int
    token: int


def partings(texts: Texts, others: Texts) -> list[Parting]:
    """The first difference of each pair of unequal texts."""
    found = []
    for image, (ones, twos) in enumerate(zip(texts, others, strict=True)):
        for question, (one, two) in enumerate(zip(ones, twos, strict=True)):
            if one != two:
                same = (left == right for left, right in zip(one, two, strict=False))
                ends = min(len(one), len(two))
                found.append(Parting(image, question, next((at for at, equal in enumerate(same) if not equal), ends)))
    return found


def difference(texts: Texts, others: Texts) -> str:
    """The number of texts that differ, and their first differing tokens, in one phrase."""
    count, firsts = sum(map(len, texts)), [parting.token + 1 for parting in partings(texts, others)]
    if not firsts:
        return f"all {count} texts equal"
    where = f"from token {median(firsts):.0f} on ({min(firsts)} to {max(firsts)})"
    return f"{len(firsts)} of {count} texts differ ({len(firsts) / count:.0%}), {where}"


def largest_gap(published: PublishedTexts, pixels: torch.Tensor, texts: Texts, others: Texts) -> float:
    """Largest gap between the published logits of the two tokens where texts first differ; 0 if none differ.

    Args:
        published: the manner that the texts are of.
        pixels: (N, 448, 448, 3) uint8 on the CPU, the images.
        texts: as published.
        others: about the same images.
    """
    gaps = [0.0]
    for parting in partings(texts, others):
        one, other = texts[parting.image][parting.question], others[parting.image][parting.question]
        # A text that is over has ended with the stop token.
        first, second = ((*text, published.stop_id)[parting.token] for text in (one, other))
        if NEVER in (first, second):
            return inf
        common = one[: parting.token]
        gaps.append(abs(published.preference(pixels[parting.image], parting.question, common, first, second)))
    return max(gaps)
