"""JPEG files of the sizes of web photos, for benchmarks that decode."""

from __future__ import annotations

import os
from itertools import cycle, islice
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

SIZES: Final = ((640, 480), (800, 600), (960, 640), (1024, 768))
QUALITY: Final = 88
DISTINCT: Final = 200


def make_photos(folder: Path, count: int) -> str:
    """Fill a folder with JPEGs: smooth pictures with grain, as much work for a decoder as photos.

    A few hundred are different; the others are hard links to them, since a decoder does not remember.

    Returns:
        What they are, in words.
    """
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    originals = []
    for number, size in zip(range(min(count, DISTINCT)), cycle(SIZES), strict=False):
        path = folder / f"{number:06}.jpg"
        picture(size, generator).save(path, quality=QUALITY)
        originals.append(path)
    for number, original in enumerate(islice(cycle(originals), count)):
        if number >= len(originals):
            os.link(original, folder / f"{number:06}.jpg")
    kib = sum(path.stat().st_size for path in originals) / len(originals) / 1024
    smallest, largest = ("×".join(map(str, size)) for size in (SIZES[0], SIZES[-1]))
    return f"{count:,} JPEGs of {smallest} to {largest} pixels, {kib:.0f} KiB on average, {len(originals)} different"


def picture(size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    """One picture, smooth with grain."""
    width, height = size
    coarse = generator.integers(0, 256, (8, 12, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    detail = generator.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    texture = np.asarray(Image.fromarray(detail).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    grain = generator.normal(0, 4, (height, width, 1)).astype(np.float32)
    return Image.fromarray((0.75 * smooth + 0.25 * texture + grain).clip(0, 255).astype(np.uint8))
