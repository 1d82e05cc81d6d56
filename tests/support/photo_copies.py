"""Real photos, and copies of them as they go around: resized, recompressed, lightly cropped."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from artimuse_actor.images.perceptual_hash import perceptual_hash
from artimuse_actor.images.preprocess import to_pixels
from jobs.curate.near_duplicates import follow_best

# Of the pictures in scikit-image's wheel, those that are photos; its others are fetched on demand, and not used.
PHOTOS = (
    *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png"),
    *("coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png"),
    *("retina.jpg", "rocket.jpg"),
)
_LONGEST_SIDE = 640


def photos() -> list[Image.Image]:
    """Photos, and the four quarters of each, which have no pixel in common."""
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    found = []
    for name in PHOTOS:
        with Image.open(Path(spec.submodule_search_locations[0], "data", name)) as file:
            photo = file.convert("RGB")
        photo.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        x, y = photo.width // 2, photo.height // 2
        quarters = [(0, 0, x, y), (x, 0, 2 * x, y), (0, y, x, 2 * y), (x, y, 2 * x, 2 * y)]
        found += [photo, *(photo.crop(quarter) for quarter in quarters)]
    return found


def _resized(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda photo: photo.resize((round(photo.width * factor), round(photo.height * factor)))


def _saved(kind: str, quality: int) -> Callable[[Image.Image], Image.Image]:
    def saved(photo: Image.Image) -> Image.Image:
        file = io.BytesIO()
        photo.save(file, kind, quality=quality)
        return Image.open(file)

    return saved


def _cropped(left: float, top: float, right: float, bottom: float) -> Callable[[Image.Image], Image.Image]:
    def cropped(photo: Image.Image) -> Image.Image:
        width, height = photo.size
        return photo.crop(
            (round(width * left), round(height * top), round(width * (1 - right)), round(height * (1 - bottom)))
        )

    return cropped


RESIZED = {"half": _resized(0.5), "a quarter": _resized(0.25), "double": _resized(2)}
RECOMPRESSED = {"JPEG 75": _saved("JPEG", 75), "JPEG 30": _saved("JPEG", 30), "WebP 60": _saved("WEBP", 60)}
CROPPED = {
    "1% all around": _cropped(0.01, 0.01, 0.01, 0.01),
    "2% all around": _cropped(0.02, 0.02, 0.02, 0.02),
    "3% on the left": _cropped(0.03, 0, 0, 0),
    "3% below": _cropped(0, 0, 0, 0.03),
}
COPIES: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    **RESIZED,
    **RECOMPRESSED,
    **CROPPED,
    "half, 1% all around, JPEG 60": lambda photo: _saved("JPEG", 60)(CROPPED["1% all around"](RESIZED["half"](photo))),
}


def hashes(pictures: list[Image.Image]) -> NDArray[np.uint64]:
    """(N,) perceptual hashes, as `score` makes them."""
    return np.array([int(perceptual_hash(to_pixels(picture)), 16) for picture in pictures], dtype=np.uint64)


def recall_and_precision(families: NDArray[np.uint64], distance: int, seed: int = 0) -> tuple[float, float]:
    """Recall and precision of `--dedupe near`, whichever of its copies a photo is best scored in.

    Args:
        families: (F, M) hashes, those of a photo and its copies in a row.
        distance: bits.
        seed: of the scores, which are random.

    Returns:
        Of the copies that should be left out, the share that is, in favour of the same photo; of those that are left
        out, the share that is so in favour of the same photo.
    """
    family = np.repeat(np.arange(families.shape[0]), families.shape[1])
    best_first = np.random.default_rng(seed).permutation(families.size)
    leader = best_first[follow_best(families.reshape(-1)[best_first], distance).leader]
    left_out = leader != best_first
    right = left_out & (family[leader] == family[best_first])
    return right.sum() / (families.size - families.shape[0]), right.sum() / max(1, left_out.sum())
