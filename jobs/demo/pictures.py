"""Drawn pictures with a known score: a pure function of a seed.

Every picture is a cool, softly graded and grainy ground, one warm subject, and some small dots. Its ground truth is a
formula of the finished pixels and of where the subject was put, with L the luma and C the chroma (the largest minus
the smallest of R, G, B) of a pixel, both 0…1:

    contrast    = min(1, |mean L of the subject - mean L of everything else| / 0.5)
    colour      = min(1, mean C of the subject / 0.8)
    composition = max(0, 1 - d / 0.25)
    gt_score    = 100 (3m² - 2m³), where m is the mean of the three terms

d is the distance of the subject's centre from the nearest of the four rule-of-thirds points, in the picture's own
coordinates: width and height both count as 1. So a picture squeezed to a square keeps its score, and one that is
cropped or padded to a square does not. The terms are drawn independently of each other; 3m² - 2m³ only widens the
spread.

Two things about the pictures are there to make wrong preprocessing visible: the ground is always cool and the subject
warm, so swapped channels show; each picture holds a black dot and a white one, so its scale shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

MIN_SIDE, MAX_SIDE = 300, 900
THIRDS: Final = tuple((x / 3, y / 3) for x in (1, 2) for y in (1, 2))

_FULL_CONTRAST, _FULL_CHROMA, _FAR = 0.5, 0.8, 0.25
_LUMA: Final = (0.299, 0.587, 0.114)
_MARGIN = 0.09  # no subject's centre comes nearer to an edge


@dataclass(frozen=True)
class _Shape:
    """Tips of an outline, from the first number to below the second, and how far it goes in between them."""

    tips: tuple[int, int]
    dent: tuple[float, float]


_SHAPES: Final = (
    _Shape(tips=(32, 33), dent=(1.0, 1.0)),  # a disc
    _Shape(tips=(4, 5), dent=(0.72, 0.72)),  # a box with sides a little hollow or round
    _Shape(tips=(5, 9), dent=(0.6, 0.85)),  # a star
    _Shape(tips=(3, 7), dent=(0.9, 0.95)),  # a pebble
)

FloatArray = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Point = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Picture:
    """One drawn picture and what is known about it.

    Attributes:
        image: RGB, both sides from 300 to 900 pixels.
        gt_score: ground truth, points from 0 to 100.
        contrast: term of the score, 0…1.
        colour: term of the score, 0…1.
        composition: term of the score, 0…1.
        subject: centre of the subject, relative to width and height.
    """

    image: Image.Image
    gt_score: float
    contrast: float
    colour: float
    composition: float
    subject: Point


def make_picture(seed: int) -> Picture:
    """The picture of that seed; the same one every time."""
    rng = np.random.default_rng(seed)
    width, height = (round(math.exp(rng.uniform(math.log(MIN_SIDE), math.log(MAX_SIDE)))) for _ in range(2))
    subject_luma, ground_luma = _draw_lumas(rng)
    centre = _draw_centre(rng)

    canvas = _paint_ground(rng, width, height, ground_luma)
    subject = _draw_subject(rng, width, height, centre)
    _paint_dots(rng, canvas, centre)
    chroma = rng.beta(0.7, 0.7) * _FULL_CHROMA
    colour = _colour(subject_luma, hue=rng.uniform(-20, 65), chroma=chroma)
    shade = _soft_texture(rng, width, height, cells=3) * 0.06
    canvas[subject] = (colour + shade[..., None])[subject]
    canvas += rng.normal(0, rng.uniform(0.005, 0.03), (height, width, 1)).astype(np.float32)

    pixels = (canvas.clip(0, 1) * 255).round().astype(np.uint8)
    contrast, colourfulness = _measure(pixels, subject)
    distance = min(math.dist(centre, third) for third in THIRDS)
    composition = max(0.0, 1 - distance / _FAR)
    return Picture(
        image=Image.fromarray(pixels),
        gt_score=combine(contrast, colourfulness, composition),
        contrast=contrast,
        colour=colourfulness,
        composition=composition,
        subject=centre,
    )


def combine(contrast: float, colour: float, composition: float) -> float:
    """The ground truth in points, 0…100, of three terms of 0…1 that count alike."""
    mean = (contrast + colour + composition) / 3
    return 100 * (3 * mean**2 - 2 * mean**3)


def _measure(pixels: npt.NDArray[np.uint8], subject: Mask) -> tuple[float, float]:
    values = pixels.astype(np.float32) / 255
    luma = values @ np.array(_LUMA, dtype=np.float32)
    contrast = abs(float(luma[subject].mean()) - float(luma[~subject].mean())) / _FULL_CONTRAST
    inside = values[subject]  # (N, 3)
    chroma = float((inside.max(axis=1) - inside.min(axis=1)).mean()) / _FULL_CHROMA
    return min(1.0, contrast), min(1.0, chroma)


def _draw_lumas(rng: np.random.Generator) -> tuple[float, float]:
    """Luma of subject and ground, their distance spread over 0…0.6 and neither near black or white."""
    distance = rng.beta(0.7, 0.7) * 0.56
    darker = rng.uniform(0.2, 0.85 - distance)
    lumas = (darker, darker + distance)
    return lumas if rng.random() < 0.5 else lumas[::-1]


def _draw_centre(rng: np.random.Generator) -> Point:
    """A point whose distance from the nearest thirds point is spread over 0…0.25."""
    while True:
        distance, angle = rng.beta(0.7, 0.7) * 0.27, rng.uniform(0, 2 * math.pi)
        third = THIRDS[int(rng.integers(4))]
        x, y = third[0] + distance * math.cos(angle), third[1] + distance * math.sin(angle)
        nearest = min(math.dist((x, y), point) for point in THIRDS)
        if nearest > distance - 1e-9 and min(x, y) > _MARGIN and max(x, y) < 1 - _MARGIN:
            return x, y


def _colour(luma: float, hue: float, chroma: float) -> FloatArray:
    """(3,) RGB of that chroma and hue in degrees, and of that luma as far as 0…1 allows."""
    sector = (hue % 360) / 60
    pure = np.array([abs(sector - 3) - 1, 2 - abs(sector - 2), 2 - abs(sector - 4)]).clip(0, 1)
    grey = float(np.clip(luma - chroma * float(pure @ np.array(_LUMA)), 0, 1 - chroma))
    return (grey + chroma * pure).astype(np.float32)


def _soft_texture(rng: np.random.Generator, width: int, height: int, cells: int) -> FloatArray:
    """(height, width) of smooth random values, about -1…1."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _paint_ground(rng: np.random.Generator, width: int, height: int, luma: float) -> FloatArray:
    """(height, width, 3): two cool colours of about one luma, one fading into the other, and a soft texture."""
    ends = [_colour(luma, hue=rng.uniform(175, 255), chroma=rng.uniform(0.12, 0.3)) for _ in range(2)]
    angle = rng.uniform(0, 2 * math.pi)
    ys, xs = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    fade = ((xs * math.cos(angle) + ys * math.sin(angle)) / 2.83 + 0.5).astype(np.float32)[..., None]
    slope = (fade - 0.5) * rng.uniform(0, 0.16)
    texture = _soft_texture(rng, width, height, cells=int(rng.integers(4, 24)))[..., None] * rng.uniform(0.01, 0.05)
    return np.asarray(ends[0] * (1 - fade) + ends[1] * fade + slope + texture, dtype=np.float32)


def _draw_subject(rng: np.random.Generator, width: int, height: int, centre: Point) -> Mask:
    """(height, width): one shape around the centre, some 3% to 12% of the picture."""
    radius = rng.uniform(0.13, 0.2) * math.sqrt(width * height)
    shape = _SHAPES[int(rng.integers(len(_SHAPES)))]
    tips, dent, turn = int(rng.integers(*shape.tips)), rng.uniform(*shape.dent), rng.uniform(0, 2 * math.pi)
    outline = []
    for n in range(2 * tips):
        reach, angle = radius * (dent if n % 2 else 1.0), turn + math.pi * n / tips
        outline.append((centre[0] * width + reach * math.cos(angle), centre[1] * height + reach * math.sin(angle)))
    mask = Image.new("1", (width, height))
    ImageDraw.Draw(mask).polygon(outline, fill=1)
    return np.asarray(mask)


def _paint_dots(rng: np.random.Generator, canvas: FloatArray, subject: Point) -> None:
    """Small black, white and grey dots away from the subject: distractors, and the ends of the scale."""
    height, width = canvas.shape[:2]
    greys = [*rng.uniform(0, 1, int(rng.integers(1, 5))), 0.0, 1.0]
    for grey in greys:
        while True:
            x, y = rng.uniform(0.04, 0.96, 2)
            if math.dist((x, y), subject) > 0.3:
                break
        radius = rng.uniform(0.02, 0.035) * math.sqrt(width * height)
        dot = Image.new("1", (width, height))
        box = (x * width - radius, y * height - radius, x * width + radius, y * height + radius)
        ImageDraw.Draw(dot).ellipse(box, fill=1)
        canvas[np.asarray(dot)] = grey
