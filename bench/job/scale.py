"""Costs of a job beside the model, per unit, shard, file or row: the constants of `docs/scale.md`.

    python bench/job/scale.py [--small] [--part NAME …]
    python bench/job/scale.py --tables      measures nothing: what it all comes to, the tables of `docs/scale.md`

Each part runs in a process of its own, so that its memory is its own: what the process has more afterwards. All use
this machine and its disk, but `requests`, which counts what a real S3 server on loopback is asked for. Counts are the
same everywhere, seconds are not.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started

import numpy as np
import pyarrow as pa

from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.images.decode import decode_image
from artimuse_actor.images.options import PIXEL_BYTES, DecodeOptions
from artimuse_actor.protocol.protocols import ARTIMUSE
from bench.job.photos import QUALITY, make_photos, picture
from bench.measure.machine import machine_line
from bench.tables.plan import FINGERPRINT, write_manifest
from jobs.forecast.costs import ImageCost, Machines, Measured, Whole, Work, whole
from jobs.forecast.text import significant
from jobs.manifest.source import open_manifest
from jobs.plan.plan import SHARD_ROWS, Plan
from jobs.score.load import UnitLoader
from jobs.score.pipeline import MOST_UNITS_A_TASK, TASKS
from jobs.score.stage import UnitStager
from jobs.storage.parquet import parquet_bytes
from jobs.storage.place import READ_THREADS
from jobs.storage.s3_place import s3_filesystem
from jobs.store.layout import plan_folder, staged_path
from jobs.store.plan_progress import PlanProgress, unit_rows_of
from jobs.store.store import Store
from schemas.units import UNIT, scored_unit, staged_unit

OBJECTS: Final = 2_000
SMALL: Final = 20
"""Factor by which `--small` measures less."""


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help=f"{SMALL} times less of everything")
    parser.add_argument("--part", choices=PARTS, nargs="+", help="only these (default: all)")
    parser.add_argument("--tables", action="store_true", help="print the tables of docs/scale.md")
    parser.add_argument("--here", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.here:
        with tempfile.TemporaryDirectory(prefix="bench") as folder:
            PARTS[options.here](Path(folder), SMALL if options.small else 1)
        return 0
    if options.tables:
        print("\n\n".join(tables()))
        return 0
    print(machine_line("ray", "pyarrow", "numpy", "s3fs"))
    for part in options.part or PARTS:
        print(f"\n{part}", flush=True)
        subprocess.run([sys.executable, __file__, "--here", part, *["--small"] * options.small], check=True)
    return 0


def blocks(_: Path, less: int) -> None:
    """The blocks that `pipeline` makes up front, a unit each, and the driver's list of units."""
    for units in (100_000 // less, 500_000 // less):
        numbers = [(unit // 328, unit % 328) for unit in range(units)]
        with _measured(f"{units:,} units as Arrow blocks", units, "unit"):
            kept = [pa.Table.from_pylist([{"shard": s, "unit": u}], schema=UNIT) for s, u in numbers]
        del kept


def ray_units(_: Path, less: int) -> None:
    """The same in Ray, and how fast units go through three steps that do nothing."""
    import ray.data

    from jobs.score.ray_session import running_ray

    with running_ray(None, 2**27):
        for units in (2_000 // less, 10_000 // less):
            kept = [pa.Table.from_pylist([{"shard": 0, "unit": unit}], schema=UNIT) for unit in range(units)]
            with _measured(f"{units:,} units given to Ray", units, "unit"):
                data: Any = ray.data.from_arrow(kept)
            idle: Any = {"batch_size": None, "batch_format": "pyarrow", "num_cpus": 0.5}
            for _step in range(3):
                data = data.map_batches(_same, **idle)
            with _measured(f"{units:,} units through three steps that do nothing", units, "unit"):
                assert sum(1 for _row in data.iter_rows()) == units


def _same(block: pa.Table) -> pa.Table:
    return block


def listing(folder: Path, less: int) -> None:
    """A folder as a source, and files of a store."""
    files = 10_000 // less
    photos = folder / "photos"
    for number in range(files):
        path = photos / f"{number % 100:02}" / f"photo-{number:09}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    place = Store.for_run(str(folder), FINGERPRINT, ARTIMUSE, keep_distribution=False).place
    with _measured(f"{files:,} files of a folder as a manifest", files, "file"):
        manifest = open_manifest(str(photos))
    with _measured(f"{files:,} files of a place listed", files, "file"):
        listed = place.files("photos")
    assert len(listed) == files == sum(batch.rows.num_rows for batch in manifest.batches())


def decoding(folder: Path, less: int) -> None:
    """Decoding costs of the two kinds of pictures in the tables."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for width, height, count in ((800, 600, 200), (4000, 3000, 20)):
        picture((width, height), generator).save(folder / "photo.jpg", quality=QUALITY)
        data = (folder / "photo.jpg").read_bytes()
        with _measured(f"{count // less} pictures of {width}×{height}, {len(data):,} bytes", count // less, "picture"):
            for _ in range(count // less):
                decode_image(data)


def restart(folder: Path, less: int) -> None:
    """The first step of a resumed run: look at every staged unit of the shards that are not committed."""
    units = 10_000 // less
    store, plan = _planned(folder, 200)
    store.place.write(staged_path(plan.plan_id, 0, 0), parquet_bytes(_scored(store, plan, 0, 0)))
    first = Path(store.place.uri(staged_path(plan.plan_id, 0, 0)))
    for unit in range(1, units):
        os.link(first, first.with_name(f"{unit:04}.parquet"))
    with _measured(f"{units:,} staged units looked at", units, "unit"):
        assert len(PlanProgress(store, plan).staging.usable_units(())[0]) == units


def shard(folder: Path, less: int) -> None:
    """One shard from plan to commit."""
    rows = SHARD_ROWS // less
    store, plan = _planned(folder, rows)
    planned = plan.shards[0]
    for unit in range(planned.units):
        store.place.write(staged_path(plan.plan_id, 0, unit), parquet_bytes(_scored(store, plan, 0, unit)))
    plan_bytes, staged_bytes = (
        sum(file.size_bytes for file in store.place.files(f"{plan_folder(plan.plan_id)}/{part}"))
        for part in ("rows", "staging")
    )
    with _measured(f"commit of a shard of {rows:,} rows in {planned.units} units", 1, "shard"):
        PlanProgress(store, plan).commit(planned)
    scores_bytes = sum(file.size_bytes for file in store.place.files("scores"))
    print(f"  a row: {plan_bytes / rows:.0f} bytes of plan, {scores_bytes / rows:.0f} of scores, ", end="")
    print(f"{staged_bytes / rows:.0f} of staging meanwhile")


def held(folder: Path, less: int) -> None:
    """Memory of a nightly run for the rows that the store has."""
    files = max(1, 16 // less)
    store, plan = _planned(folder, SHARD_ROWS // less)
    table = _scored(store, plan, 0, None).select(store.schema.names).cast(store.schema)
    for number in range(files):
        ids = pa.array([f"{number}/{name}" for name in table["image_id"].to_pylist()])
        table = table.set_column(0, store.schema.field(0), ids)
        store.write_tables(f"scores/bench-{number:05}.parquet", table, None, "bench")
    with _measured(f"keys of {files * len(table):,} stored rows", files * len(table), "row"):
        _ = store.stored_rows()
    again = PlanProgress.begin(store, open_manifest(str(folder / "manifest")), "again").plan
    known = sum(file.size_bytes for file in store.place.files(f"{plan_folder(again.plan_id)}/known"))
    print(f"  digests of their bytes, read by blocks: {known / files / len(table):.0f} bytes a row")


def requests(folder: Path, _: int) -> None:
    """S3 requests of one unit, one commit, and the rest of a run, including aiobotocore's HEAD requests."""
    from support.s3_server import running_s3

    photos = folder / "photos"
    make_photos(photos, 40)
    (folder / "server").mkdir()
    with running_s3(folder / "server") as endpoint:
        os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
        fs = s3_filesystem()
        fs.mkdir("bench")
        fs.put(str(photos), "s3://bench/photos", recursive=True)
        counted = _count_requests(type(fs))
        store = Store.for_run("s3://bench/out", FINGERPRINT, ARTIMUSE, keep_distribution=False)
        manifest = open_manifest("s3://bench/photos")
        _say_requests("listing 40 images", counted)
        fs.pipe({f"s3://bench/many/{number % 100:02}/photo-{number:09}.jpg": b"x" for number in range(OBJECTS)})
        counted.clear()
        tracemalloc.start()
        open_manifest("s3://bench/many")
        print(f"  memory while a prefix is listed: {tracemalloc.get_traced_memory()[1] / OBJECTS:,.0f} bytes an object")
        tracemalloc.stop()
        _say_requests(f"listing {OBJECTS:,} images", counted)
        plan = PlanProgress.begin(store, manifest, "bench", 20).plan
        store.declare()
        _say_requests("plan of one shard", counted)
        loader = UnitLoader(store.place, plan, DecodeOptions(), store.answers, store.known_rows(plan), FetchOptions())
        stager = UnitStager(store.place, plan, staged_unit(store.schema, None), None, "bench")
        for unit in range(2):  # the first one also finds that nothing is known
            (loaded,) = loader(pa.table({"shard": [0], "unit": [unit]}, schema=UNIT))
            _say_requests(f"load of unit {unit}, 20 images", counted)
            stager(loaded.select(scored_unit(store.answers).names))
            _say_requests(f"staging of unit {unit}", counted)
        PlanProgress(store, plan).commit(plan.shards[0])
        _say_requests("commit of a shard of 2 units", counted)
        PlanProgress(store, plan).discard_work()
        _say_requests("deleting the work of a plan of 2 units", counted)


def _count_requests(filesystem: Any) -> Counter[str]:
    """Count what every s3fs of this process asks for, from now on."""
    counted: Counter[str] = Counter()
    call = filesystem._call_s3

    async def counting(self: Any, method: str, *arguments: Any, **named: Any) -> Any:
        counted[method] += 1
        return await call(self, method, *arguments, **named)

    filesystem._call_s3 = counting
    return counted


def _say_requests(what: str, counted: Counter[str]) -> None:
    print(f"  {what}: {', '.join(f'{count} {method}' for method, count in sorted(counted.items())) or 'nothing'}")
    counted.clear()


@contextmanager
def _measured(what: str, count: int, each: str) -> Iterator[None]:
    memory, cpu_s, start = _resident_bytes(), time.process_time(), time.perf_counter()
    yield
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu_s
    grown = max(0, _resident_bytes() - memory)
    print(f"  {what}: {seconds:.2f} s, {cpu_s:.2f} s of CPU; {seconds / count * 1e6:,.0f} us a {each}", end="")
    print(f"; {grown / 1e6:,.1f} MB more, {grown / count:,.0f} bytes a {each}", flush=True)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _planned(folder: Path, rows: int) -> tuple[Store, Plan]:
    """An empty store, and a plan of that many rows for it."""
    write_manifest(folder / "manifest", rows)
    store = Store.for_run(str(folder / "out"), FINGERPRINT, ARTIMUSE, keep_distribution=False)
    store.declare()
    return store, PlanProgress.begin(store, open_manifest(str(folder / "manifest")), "bench", 200).plan


def _scored(store: Store, plan: Plan, shard: int, unit: int | None) -> pa.Table:
    """A unit as it is staged, or all of a shard; what is different for every image is random."""
    units = range(plan.shards[shard].units) if unit is None else [unit]
    rows = pa.concat_tables([unit_rows_of(store.place, plan, shard, number) for number in units])
    count = len(rows)
    made: dict[str, list[Any]] = {
        "status": ["ok"] * count,
        "score": [secrets.randbelow(10**6) / 10**4 for _ in range(count)],
        "score_std": [secrets.randbelow(10**6) / 10**5 for _ in range(count)],
        "width": [640 + secrets.randbelow(4000) for _ in range(count)],
        "height": [480 + secrets.randbelow(4000) for _ in range(count)],
        "format": ["JPEG"] * count,
        "sha256": [secrets.token_hex(32) for _ in range(count)],
        "phash": [secrets.token_hex(8) for _ in range(count)],
        "run_id": [plan.plan_id] * count,
        "scored_at": [0] * count,
    }
    columns = [
        rows[field.name]
        if field.name in rows.column_names
        else pa.array(made.get(field.name, [None] * count), field.type)
        for field in staged_unit(store.schema, None)
    ]
    return pa.table(columns, schema=staged_unit(store.schema, None))


SIZES: Final = (10**6, 10**8, 5 * 10**9)
GPUS: Final = (1, 100, 1000)
IMAGES_PER_S: Final = {False: 87.0, True: 24.0}  # without and with texts, on an H200
WEB_PHOTO: Final = (156 * 1024, 0.0077)  # bytes and CPU seconds, of RESULTS.md
LARGE_PHOTO: Final = (3.4e6, 0.17)  # of 12 megapixels, measured by `decoding`
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


PARTS: Final[dict[str, Callable[[Path, int], None]]] = {
    "blocks": blocks,
    "ray": ray_units,
    "listing": listing,
    "decoding": decoding,
    "restart": restart,
    "shard": shard,
    "held": held,
    "requests": requests,
}


if __name__ == "__main__":
    sys.exit(main())
