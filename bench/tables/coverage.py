"""Coverage: how often nominal 95% intervals hold the truth, and how often a difference of none is called one.

    python bench/tables/coverage.py [--small]

Pairs whose true metrics are known: bivariate normals of 10 to 100 pairs, also with errors of other shapes; and pictures
made from few originals (16 × 125 as in KADID's test split, 40 × 116 as in PIPAL's), where a scorer favours some
contents over others. By rows, all pictures count as independent; by clusters, those of one original stay together.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started

import numpy as np
from scipy import stats

from bench.measure.machine import machine_line
from jobs.evaluate.metrics.agreement import measure_differences
from jobs.evaluate.metrics.bootstrap import Drawable, resampling
from jobs.evaluate.metrics.correlation import Floats, Moments, krcc, plcc, srcc
from jobs.evaluate.metrics.intervals import Resamples
from jobs.evaluate.metrics.jackknife import error_intervals
from jobs.evaluate.metrics.units import Units

RHO: Final = 0.7
NORMAL: Final = {
    "srcc": 6 / math.pi * math.asin(RHO / 2),
    "plcc": RHO,
    "krcc": 2 / math.pi * math.asin(RHO),
    "rmse": math.sqrt(1 - RHO**2),
    "mae": math.sqrt((1 - RHO**2) * 2 / math.pi),
}
ERRORS: Final[dict[str, tuple[Callable[[np.random.Generator, int], Floats], float, float]]] = {
    "normal": (lambda generator, n: generator.normal(size=n), 1.0, math.sqrt(2 / math.pi)),
    "Student's t5": (lambda generator, n: generator.standard_t(5, n), math.sqrt(5 / 3), float(stats.t(5).expect(abs))),
    "exponential": (lambda generator, n: generator.exponential(size=n) - 1, 1.0, 2 / math.e),
    "uniform": (lambda generator, n: generator.uniform(-1, 1, n), math.sqrt(1 / 3), 0.5),
}
"""Error → its generator, RMSE and MAE."""
CLUSTERS: Final = {"KADID": (16, 125), "PIPAL": (40, 116)}
CONTENT: Final = (0.2, 0.4, 0.8)
RESAMPLES: Final = 200


def main(arguments: list[str] | None = None) -> int:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a tenth of the repetitions")
    small = parser.parse_args(arguments).small
    repetitions = 100 if small else 1000
    print(machine_line("numpy", "scipy"))
    print(f"\n{repetitions:,} repetitions; normal pairs of correlation {RHO}\n")
    print("|   N | SRCC | PLCC | KRCC | RMSE |  MAE |\n| --: | ---: | ---: | ---: | ---: | ---: |")
    for n in (10, 20, 30, 50, 100):
        print(f"| {n:3} | {_row(of_normals(n, repetitions), NORMAL)} |", flush=True)
    print("\nRMSE and MAE by the shape of the errors\n")
    print("| errors       |   N | RMSE |  MAE |\n| ------------ | --: | ---: | ---: |")
    for shape in ERRORS:
        for n in (10, 30, 100):
            print(f"| {shape:<12} | {n:3} | {_row(of_errors(shape, n, repetitions), ('rmse', 'mae'))} |", flush=True)
    repetitions //= 10
    print(f"\n{repetitions:,} repetitions; errors that depend on content\n")
    print("| originals × pictures | content | by          | SRCC | PLCC | KRCC |")
    print("| -------------------- | ------: | ----------- | ---: | ---: | ---: |")
    for count, size in CLUSTERS.values():
        for content in CONTENT:
            for clustered in (False, True):
                found = of_clusters(count, size, content, repetitions, clustered=clustered)
                by = "clusters" if clustered else "rows"
                cells = _row(found, ("srcc", "plcc", "krcc"))
                print(f"| {f'{count} × {size}':<20} | {content:7} | {by:<11} | {cells} |", flush=True)
    print(f"\n{repetitions:,} repetitions; two scorers as good as each other, p < 0.05 is found in\n")
    print("| pairs                | by          | SRCC | PLCC | KRCC |")
    print("| -------------------- | ----------- | ---: | ---: | ---: |")
    for name, found in of_differences(repetitions):
        print(f"| {name} | {_row(found, ('srcc', 'plcc', 'krcc'))} |", flush=True)
    return 0


def of_normals(n: int, repetitions: int) -> dict[str, float]:
    """Metric → share of intervals that hold the truth."""
    inside = dict.fromkeys(NORMAL, 0)
    for seed in range(repetitions):
        scores, noise = np.random.default_rng(seed).normal(size=(2, n))
        truths = RHO * scores + math.sqrt(1 - RHO**2) * noise
        for metric, ends in _intervals(scores, truths, Units(n), seed).items():
            inside[metric] += holds(ends, NORMAL[metric])
    return {metric: count / repetitions for metric, count in inside.items()}


def of_errors(shape: str, n: int, repetitions: int) -> dict[str, float]:
    """The same for RMSE and MAE, errors being of this shape."""
    draw, rmse, mae = ERRORS[shape]
    inside = {"rmse": 0, "mae": 0}
    for seed in range(repetitions):
        generator = np.random.default_rng(seed)
        scores = generator.normal(size=n)
        truths = scores + draw(generator, n)
        found = error_intervals(scores, truths, Moments(scores, truths).line, Units(n), seed, 0.95)
        inside["rmse"] += holds(found["rmse"], rmse)
        inside["mae"] += holds(found["mae"], mae)
    return {metric: count / repetitions for metric, count in inside.items()}


def of_clusters(
    count: int, size: int, content: float, repetitions: int, *, clustered: bool, resamples: int = RESAMPLES
) -> dict[str, float]:
    """The same for correlations of pictures made from few originals."""
    scores, truths, _ = pictures(np.random.default_rng(0), 1000, size, content)
    true = {"srcc": srcc(scores, truths), "plcc": plcc(scores, truths), "krcc": krcc(scores, truths)}
    inside = dict.fromkeys(true, 0)
    for seed in range(repetitions):
        scores, truths, originals = pictures(np.random.default_rng(seed), count, size, content)
        units = Units(len(scores), originals if clustered else None)
        drawn = Resamples([Drawable(scores, truths, {})], resampling(units), seed, resamples)
        values = {"srcc": srcc(scores, truths), "plcc": plcc(scores, truths), "krcc": krcc(scores, truths)}
        for metric, value in values.items():
            inside[metric] += holds(drawn.interval(metric, value, truths, 0.95), true[metric])
    return {metric: found / repetitions for metric, found in inside.items()}


def of_differences(repetitions: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Name of a setting and, by metric, the share of comparisons of equals that find a difference."""
    for n in (10, 30, 100, 300):
        found = dict.fromkeys(("srcc", "plcc", "krcc"), 0)
        for seed in range(repetitions):
            truths, first, second = np.random.default_rng(seed).normal(size=(3, n))
            _count_differences(found, [truths + first, truths + second], truths, None, seed)
        yield f"{n:<20} | rows       ", {metric: count / repetitions for metric, count in found.items()}
    for count, size in CLUSTERS.values():
        for clustered in (False, True):
            found = dict.fromkeys(("srcc", "plcc", "krcc"), 0)
            for seed in range(repetitions):
                generator = np.random.default_rng(seed)
                first, truths, originals = pictures(generator, count, size, 0.4)
                second = pictures(generator, count, size, 0.4, truths)[0]
                _count_differences(found, [first, second], truths, originals if clustered else None, seed)
            name = f"{f'{count} × {size}':<20} | {'clusters' if clustered else 'rows':<11}"
            yield name, {metric: number / repetitions for metric, number in found.items()}


def pictures(
    generator: np.random.Generator, count: int, size: int, content: float, truths: Floats | None = None
) -> tuple[Floats, Floats, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Scores, truths and originals of `count` × `size` pictures, damaged in steps.

    A scorer has a bias for each original, and sees its damage more or less well, by `content` standard deviations.
    """
    originals = np.repeat(np.arange(count), size)
    damage = np.tile(np.linspace(-1.5, 1.5, size), count)
    if truths is None:
        truths = damage + 0.3 * generator.normal(size=count)[originals] + 0.3 * generator.normal(size=count * size)
    bias, slope = content * generator.normal(size=(2, count))
    scores = (1 + slope / 2)[originals] * damage + bias[originals] + 0.4 * generator.normal(size=count * size)
    return scores, truths, originals


def holds(ends: tuple[float, float] | str, true: float) -> bool:
    """Whether there is an interval and it holds the truth."""
    return not isinstance(ends, str) and ends[0] <= true <= ends[1]


def _intervals(scores: Floats, truths: Floats, units: Units, seed: int) -> dict[str, tuple[float, float] | str]:
    drawn = Resamples([Drawable(scores, truths, {})], resampling(units), seed, RESAMPLES)
    values = {"srcc": srcc(scores, truths), "plcc": plcc(scores, truths), "krcc": krcc(scores, truths)}
    found = {metric: drawn.interval(metric, value, truths, 0.95) for metric, value in values.items()}
    return found | error_intervals(scores, truths, Moments(scores, truths).line, units, seed, 0.95)


def _count_differences(
    found: dict[str, int],
    scores: list[Floats],
    truths: Floats,
    clusters: np.ndarray[tuple[int], np.dtype[np.int64]] | None,
    seed: int,
) -> None:
    difference = measure_differences(scores, truths, clusters=clusters, seed=seed, resamples=RESAMPLES)[0, 1]
    for metric in found:
        p_value = getattr(difference, metric).p_value
        found[metric] += p_value is not None and p_value < 0.05


def _row(found: dict[str, float], metrics: object) -> str:
    return " | ".join(f"{found[metric]:4.0%}" for metric in metrics)  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
