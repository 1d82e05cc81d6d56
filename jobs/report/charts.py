"""Charts as numbers: where bars, points and ticks go; `charts.html` draws them, and style sheets give them colours.

All coordinates are in the units of the drawing's own box, from the top left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jobs.evaluate.metrics.calibration import calibration

BROAD: Final = 1_040
SLIM: Final = 360
"""Widths of a histogram, for a desk and for a phone."""

_POINTS: Final = 1_500  # above, density is shown instead
_CELLS: Final = 40

Numbers = NDArray[np.floating]


@dataclass(frozen=True)
class Tick:
    """A place on an axis, and what is written there."""

    at: float
    label: str


@dataclass(frozen=True)
class Bar:
    """A rectangle, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Chart:
    """A drawing.

    Attributes:
        title: what it shows, in a few words.
        description: what it says, for those who do not see it.
        width: of its box.
        height: likewise.
        x_ticks: along the bottom.
        y_ticks: along the left.
        bars: of a histogram.
        cells: of a density: bars with a share of the densest, from 0 to 1.
        points: (x, y) of each.
        lines: each as (x1, y1, x2, y2).
        whiskers: (x, low, y, high): a point with its interval.
        marks: vertical lines with a label.
        x_label: what runs along the bottom.
        y_label: what runs along the left.
        left: where the axis begins.
        bottom: where it lies.
    """

    title: str
    description: str
    width: int
    height: int
    left: float = 0
    bottom: float = 0
    x_ticks: Sequence[Tick] = ()
    y_ticks: Sequence[Tick] = ()
    bars: Sequence[Bar] = ()
    cells: Sequence[tuple[Bar, float]] = ()
    points: Sequence[tuple[float, float]] = ()
    lines: Sequence[tuple[float, float, float, float]] = ()
    whiskers: Sequence[tuple[float, float, float, float]] = ()
    marks: Sequence[Tick] = ()
    x_label: str = ""
    y_label: str = ""


@dataclass(frozen=True)
class Summary:
    """A set of scores in a few numbers; all but n are NaN without any."""

    n: int
    mean: float
    deviation: float
    quantiles: dict[int, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Half of the scores are below."""
        return self.quantiles.get(50, math.nan)


def summarise(points: Numbers) -> Summary:
    """Mean, standard deviation and some percentiles of finite scores."""
    if not len(points):
        return Summary(0, math.nan, math.nan)
    percents = (0, 5, 25, 50, 75, 95, 100)
    found = np.percentile(points, percents)
    deviation = float(points.std(dtype=np.float64))
    return Summary(
        len(points), float(points.mean(dtype=np.float64)), deviation, dict(zip(percents, found.tolist(), strict=True))
    )


def score_histogram(points: Numbers, title: str, width: int) -> Chart:
    """Histogram of scores: bars of two points, on the whole scale from 0 to 100."""
    counts, edges = np.histogram(points, bins=50, range=(0, 100))
    left, top, bottom, height = 46.0, 26.0, 210.0, 246
    x = _scale(0, 100, left, width - 12)
    most, y_ticks = _count_axis(int(counts.max(initial=0)))
    y = _scale(0, most, bottom, top)
    gap = max(0.75, width / 600)
    bars = [
        Bar(
            x(low) + gap / 2,
            y(count),
            x(high) - x(low) - gap,
            bottom - y(count),
            f"{low:g} to {high:g} points: {count:,} {_images(count)}",
        )
        for low, high, count in zip(edges, edges[1:], counts.tolist(), strict=False)
        if count
    ]
    about = summarise(points)
    description = "There are no scores."
    if about.n:
        middle = f"half lie between {about.quantiles[25]:.1f} and {about.quantiles[75]:.1f}"
        description = (
            f"{about.n:,} {_images(about.n)}; the mean is {about.mean:.1f}, the median {about.median:.1f}; {middle}; "
            f"the lowest is {about.quantiles[0]:.1f}, the highest {about.quantiles[100]:.1f}."
        )
    return Chart(
        title=title,
        description=description,
        width=width,
        height=height,
        left=left,
        bottom=bottom,
        x_ticks=[Tick(x(value), str(value)) for value in range(0, 101, 10 if width == BROAD else 20)],
        y_ticks=[Tick(y(value), _short(value)) for value in y_ticks],
        bars=bars,
        marks=[Tick(x(about.median), f"median {about.median:.1f}")] if about.n else [],
        x_label="score, points",
    )


def group_outline(points: Numbers) -> tuple[str, str]:
    """A small histogram as a path in a box of 300×36, and a sentence that says the same."""
    counts, _ = np.histogram(points, bins=50, range=(0, 100))
    most = max(1, int(counts.max(initial=0)))
    steps = " ".join(f"V{36 - 34 * count / most:.1f} h6" for count in counts)
    about = summarise(points)
    said = f"{about.n:,} {_images(about.n)}" + (f", median {about.median:.1f}" if about.n else "")
    return f"M0 36 {steps} V36 Z", said


def agreement_chart(scores: Numbers, truths: Numbers, slope: float | None, intercept: float | None, said: str) -> Chart:
    """Scores against ground truth: points, or their density where there are many."""
    return _against(scores, truths, "Scores and ground truth", "ground truth", said, _line(slope, intercept, scores))


def residual_chart(scores: Numbers, residuals: Numbers, said: str) -> Chart:
    """Residuals of the linear mapping against the score."""
    ends = (float(scores.min(initial=0)), 0.0, float(scores.max(initial=0)), 0.0)
    return _against(scores, residuals, "What the line leaves", "truth − line", said, ends if len(scores) else None)


def calibration_chart(scores: Numbers, truths: Numbers, slope: float | None, intercept: float | None) -> Chart:
    """The mean ground truth of each tenth of the images by score, with twice its standard error."""
    tenths = calibration(scores, truths)
    centres = np.array([tenth.score for tenth in tenths])
    chart, x, y = _frame(
        centres,
        np.array([tenth.truth + sign * tenth.error for sign in (-1, 1) for tenth in tenths]),
        "Calibration",
        "mean ground truth",
        "Mean score and mean ground truth of each tenth of the images: "
        + "; ".join(f"{tenth.score:.1f} and {tenth.truth:.3g}" for tenth in tenths)
        + ".",
        "mean score of a tenth",
    )
    whiskers = [(x(score), y(truth - error), y(truth), y(truth + error)) for score, truth, error in tenths]
    ends = _line(slope, intercept, centres)
    return _with(chart, whiskers=whiskers, lines=[(x(ends[0]), y(ends[1]), x(ends[2]), y(ends[3]))] if ends else [])


def _against(
    x_values: Numbers,
    y_values: Numbers,
    title: str,
    y_label: str,
    said: str,
    line: tuple[float, float, float, float] | None,
) -> Chart:
    chart, x, y = _frame(x_values, y_values, title, y_label, said, "score")
    lines = [(x(line[0]), y(line[1]), x(line[2]), y(line[3]))] if line else []
    if len(x_values) <= _POINTS:
        points = [(round(x(float(a)), 1), round(y(float(b)), 1)) for a, b in zip(x_values, y_values, strict=True)]
        return _with(chart, points=points, lines=lines)
    counts, x_edges, y_edges = np.histogram2d(x_values, y_values, bins=_CELLS)
    densest = math.log1p(counts.max())
    cells = [
        (
            Bar(
                round(x(x_edges[i]), 1),
                round(y(y_edges[j + 1]), 1),
                round(x(x_edges[i + 1]) - x(x_edges[i]), 1),
                round(y(y_edges[j]) - y(y_edges[j + 1]), 1),
                f"{int(counts[i, j]):,} {_images(int(counts[i, j]))}",
            ),
            round(0.08 + 0.92 * math.log1p(counts[i, j]) / densest, 2),
        )
        for i, j in np.argwhere(counts)
    ]
    return _with(chart, cells=cells, lines=lines)


def _frame(
    x_values: Numbers, y_values: Numbers, title: str, y_label: str, said: str, x_label: str
) -> tuple[Chart, _Scale, _Scale]:
    """Axes around some values, and the ways onto the page."""
    left, top, bottom, right = 48.0, 14.0, 250.0, 348.0
    x_low, x_high, x_ticks = _nice(x_values)
    y_low, y_high, y_ticks = _nice(y_values)
    x, y = _scale(x_low, x_high, left, right), _scale(y_low, y_high, bottom, top)
    chart = Chart(
        title=title,
        description=said,
        width=360,
        height=292,
        left=left,
        bottom=bottom,
        x_ticks=[Tick(x(value), f"{value:g}") for value in x_ticks],
        y_ticks=[Tick(y(value), f"{value:g}") for value in y_ticks],
        x_label=x_label,
        y_label=y_label,
    )
    return chart, x, y


class _Scale:
    """From values to places on the page."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._start = low, start
        self._step = (end - start) / (high - low)

    def __call__(self, value: float) -> float:
        return round(float(self._start + (value - self._low) * self._step), 2)


_scale = _Scale


def _with(chart: Chart, **changes: object) -> Chart:
    return Chart(**{**vars(chart), **changes})


def _line(slope: float | None, intercept: float | None, scores: Numbers) -> tuple[float, float, float, float] | None:
    if slope is None or intercept is None or not len(scores):
        return None
    low, high = float(scores.min()), float(scores.max())
    return low, slope * low + intercept, high, slope * high + intercept


def _nice(values: Numbers) -> tuple[float, float, list[float]]:
    """Round ends around some values, and about five round numbers between them."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 5
    step = 10.0 ** math.floor(math.log10(rough))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return first * step, last * step, [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _count_axis(most: int) -> tuple[float, list[int]]:
    """The end of an axis of counts, and some whole numbers on it."""
    step = 10 ** max(0, math.floor(math.log10(max(1, most) / 3)))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step * 3.5 >= most)
    ticks = list(range(0, max(most, 1) + 1, step))
    return max(most, 1) * 1.04, ticks


def _short(count: int) -> str:
    for size, unit in ((1_000_000, " M"), (10_000, " k")):
        if count >= size:
            return f"{count / (1_000_000 if unit == ' M' else 1_000):g}{unit}"
    return f"{count:,}"


def _images(count: int) -> str:
    return "image" if count == 1 else "images"
