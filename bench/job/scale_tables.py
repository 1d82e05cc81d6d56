"""The tables of `docs/scale.md`, from the constants that `scale.py` measures.

    python bench/job/scale_tables.py

Nothing is measured: sizes, GPU-hours, requests and rates follow from the constants, as in `artimuse plan`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started

from artimuse_actor.images.options import PIXEL_BYTES
from jobs.forecast.costs import ImageCost, Machines, Measured, Whole, Work, whole
from jobs.forecast.text import significant
from jobs.score.pipeline import MOST_UNITS_A_TASK, TASKS
from jobs.storage.place import READ_THREADS

SIZES: Final = (10**6, 10**8, 5 * 10**9)
GPUS: Final = (1, 100, 1000)
IMAGES_PER_S: Final = {False: 87.0, True: 24.0}  # without and with texts, on an H200
WEB_PHOTO: Final = (156 * 1024, 0.0077)  # bytes and CPU seconds, of RESULTS.md
LARGE_PHOTO: Final = (3.4e6, 0.17)  # of 12 megapixels, measured by the part `decoding` of `scale.py`
BLOCK_BYTES: Final = 40e3  # of the driver, for each block that Ray has been given
BLOCK_S: Final = 0.0028
REQUEST_S: Final = 0.03  # to S3; not measured, a customary value
_MAX_GET_S: Final = 5500


def _blocks(whole: Whole) -> float:
    """Blocks that a job is given to Ray in, see `jobs.score.pipeline.pipeline`."""
    return whole.units / min(MOST_UNITS_A_TASK, -(-whole.units // TASKS))


def tables() -> list[str]:
    """By rows, by GPUs, the time of both, and by stores."""
    return [_table_of_sizes(), _table_of_gpus(), _table_of_hours(), _table_of_stores()]


def of_size(rows: int, gpus: int = 1, *, texts: bool = False, photo: tuple[float, float] = WEB_PHOTO) -> Whole:
    """Costs of so many rows on so many GPUs, all readable and on S3."""
    read_bytes, load_s = photo
    model_s = Measured(1 / IMAGES_PER_S[texts])
    image = ImageCost(Measured(1.0), Measured(read_bytes), Measured(load_s), model_s, s3_share=1.0)
    return whole(Work(rows, rows, texts=texts), image, Machines(gpus))


def _table_of_sizes() -> str:
    lines: list[tuple[str, Callable[[Whole, Whole], str]]] = [
        ("shards = files of `scores/` (and of `texts/`)", lambda plain, _: f"{plain.shards:,}"),
        ("units of 200 (with texts: of 64)", lambda plain, texts: f"{plain.units:,} ({texts.units:,})"),
        ("planning, s", lambda plain, _: f"{plain.plan_s:,.0f}"),
        ("memory of the planner, GB", lambda plain, _: _gb(plain.planner_bytes)),
        ("plan on disk, GB", lambda plain, _: _gb(plain.plan_bytes)),
        (
            "blocks given to Ray: memory of the driver, GB (with texts)",
            lambda plain, texts: f"{_gb(_blocks(plain) * BLOCK_BYTES)} ({_gb(_blocks(texts) * BLOCK_BYTES)})",
        ),
        (
            "…and the time to make them, min (with texts)",
            lambda plain, texts: (
                f"{significant(_blocks(plain) * BLOCK_S / 60)} ({significant(_blocks(texts) * BLOCK_S / 60)})"
            ),
        ),
        ("staging at a time, GB", lambda plain, _: _gb(plain.staged_bytes)),
        ("the scores table, GB", lambda plain, _: _gb(plain.table_bytes)),
        ("S3: GET of images", lambda plain, _: f"{plain.requests.images:,}"),
        ("S3: GET and HEAD of the store", lambda plain, _: f"{plain.requests.read:,}"),
        ("S3: PUT", lambda plain, _: f"{plain.requests.written:,}"),
        ("S3: DELETE", lambda plain, _: f"{plain.requests.deleted:,}"),
        ("read, TB, of 156 KiB (3.4 MB) an image", lambda plain, _: _terabytes(plain)),
        ("GPU-hours (with texts)", lambda plain, texts: f"{_hours(plain):,.0f} ({_hours(texts):,.0f})"),
    ]
    wholes = [(of_size(rows), of_size(rows, texts=True)) for rows in SIZES]
    cells = [[label, *(cell(plain, texts) for plain, texts in wholes)] for label, cell in lines]
    return _markdown(["", *(f"{rows:,} images" for rows in SIZES)], cells)


def _table_of_gpus() -> str:
    def at(gpus: int, *, texts: bool, cell: Callable[[Whole, float], float]) -> str:
        found = of_size(SIZES[-1], gpus, texts=texts)
        assert found.images_per_s is not None
        value = cell(found, found.images_per_s / found.work.rows)
        return f"{value:,.0f}" if value >= 10 else f"{value:,.2g}"

    lines: list[tuple[str, Callable[[Whole, float], float]]] = [
        ("images/s", lambda found, _: found.images_per_s or 0),
        ("units/s", lambda found, rate: found.units * rate),
        ("shards/min", lambda found, rate: 60 * found.shards * rate),
        ("CPU cores to load them, 9.7 ms an image", lambda found, _: found.cores_to_feed or 0),
        ("…of 12 megapixels, 172 ms an image", lambda found, _: (found.images_per_s or 0) * (LARGE_PHOTO[1] + 0.002)),
        ("Gbit/s to read them, 156 KiB an image", lambda found, _: found.gbit_per_s_to_feed or 0),
        ("…of 12 megapixels, 3.4 MB an image", lambda found, _: (found.images_per_s or 0) * LARGE_PHOTO[0] * 8e-9),
        ("Gbit/s of pixels from loaders to models", lambda found, _: (found.images_per_s or 0) * PIXEL_BYTES * 8e-9),
        ("GET of images/s", lambda found, _: found.images_per_s or 0),
        ("…partitions of S3 for them, at 5,500/s", lambda found, _: -(-(found.images_per_s or 0) // _MAX_GET_S)),
        ("GET and HEAD of the store/s", lambda found, rate: found.requests.read * rate),
        ("PUT of marks/s", lambda found, rate: found.units * rate),
        ("DELETE of marks/s", lambda found, rate: found.units * rate),
        ("PUT of staging/s", lambda found, rate: found.units * rate),
        ("PUT of tables/s", lambda found, rate: found.files * rate),
    ]
    cells = [
        [label, *(f"{at(gpus, texts=False, cell=cell)} ({at(gpus, texts=True, cell=cell)})" for gpus in GPUS)]
        for label, cell in lines
    ]
    return _markdown(["scores (with texts)", *(f"{gpus:,} GPU{'s' * (gpus > 1)}" for gpus in GPUS)], cells)


def _table_of_hours() -> str:
    cells = [
        [f"{rows:,} images", *(f"{significant(plain / gpus)} ({significant(texts / gpus)})" for gpus in GPUS)]
        for rows in SIZES
        for plain, texts in [(_hours(of_size(rows)), _hours(of_size(rows, texts=True)))]
    ]
    return _markdown(["hours (with texts)", *(f"{gpus:,} GPU{'s' * (gpus > 1)}" for gpus in GPUS)], cells)


def _table_of_stores() -> str:
    """10⁹ rows in one store, and in a hundred: the first pass, and a night after it with one row in a thousand new."""
    rows, stores, new = 10**9, 100, 1000
    cells = []
    for each in (rows, rows // stores):
        first = of_size(each)
        night = whole(Work(each + each // new, each // new, held_rows=each), first.image, first.machines)
        footers_min = 2 * first.shards * REQUEST_S / READ_THREADS / 60
        cells.append(
            [
                f"{first.shards:,}",
                _gb(first.planner_bytes),
                f"{significant(first.plan_s / 60)}",
                _gb(_blocks(first) * BLOCK_BYTES),
                f"{significant(footers_min)}",
                _gb(night.planner_bytes),
                f"{significant(night.plan_s / 60)}",
                _gb(first.table_bytes),
                f"{significant(first.shards * 0.8 / 3600)}",
            ]
        )
    names = [
        "files of `scores/`",
        "first pass: memory of the driver that plans, GB",
        "…minutes of planning",
        "…memory of the driver for blocks given to Ray, GB",
        "a restart on S3: minutes to read the footers",
        "a night later, one row in a thousand new: memory of the driver that plans, GB",
        "…minutes of planning",
        "the scores table, GB",
        "hours of one core of the driver, for all commits",
    ]
    return _markdown(
        [f"{rows:,} images", "in one store", f"each of {stores} stores"],
        [list(line) for line in zip(names, *cells, strict=True)],
    )


def _hours(found: Whole) -> float:
    assert found.gpu_hours is not None
    return found.gpu_hours.value


def _terabytes(found: Whole) -> str:
    large = of_size(found.work.rows, photo=LARGE_PHOTO)
    return f"{significant(found.read_bytes.value / 1e12)} ({significant(large.read_bytes.value / 1e12)})"


def _gb(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:,.2f}" if size_bytes < 1e10 else f"{size_bytes / 1e9:,.0f}"


def _markdown(head: list[str], cells: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print("\n\n".join(tables()))
