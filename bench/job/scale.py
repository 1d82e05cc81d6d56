"""Costs of a job beside the model, per unit, shard, file or row: the constants of `docs/scale.md`.

    python bench/job/scale.py [--small] [--part NAME …]

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
from artimuse_actor.images.options import DecodeOptions
from artimuse_actor.protocol.protocols import ARTIMUSE
from bench.job.photos import QUALITY, make_photos, picture
from bench.measure.machine import machine_line
from bench.tables.plan import FINGERPRINT, write_manifest
from jobs.manifest.source import open_manifest
from jobs.plan.plan import SHARD_ROWS, Plan
from jobs.score.load import UnitLoader
from jobs.score.stage import UnitStager
from jobs.storage.parquet import parquet_bytes
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
    parser.add_argument("--here", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.here:
        with tempfile.TemporaryDirectory(prefix="bench") as folder:
            PARTS[options.here](Path(folder), SMALL if options.small else 1)
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
