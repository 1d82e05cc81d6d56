"""Curation: near-duplicates among a million hashes, and the best of ten million rows.

    python bench/tables/curate.py [--small]

Each measurement is a process of its own. The store is filled with made-up rows of the real schema, with scores in steps
of a half above 64 points, as bfloat16 gives them, so that there are ties.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from artimuse_actor.protocol.protocols import ARTIMUSE
from bench.measure.machine import ROOT, machine_line
from bench.measure.memory import MIB, run_measured
from bench.tables.plan import FINGERPRINT
from jobs.curate.near_duplicates import follow_best
from jobs.store.store import Store
from schemas.scores import CAPTURE

SHARD_ROWS: Final = 65_536
GOAL: Final = "60 s"
GOAL_MIB: Final = 1907
CATEGORIES: Final = 1000
CHOICES: Final = {
    "--top 1%": ("--top", "1%"),
    "--top 50000 after four filters": (
        *("--min-score", "40", "--max-std", "12", "--min-side", "1024", "--format", "jpeg,png", "--top", "50000"),
    ),
    "--top 10% --per format": ("--top", "10%", "--per", "format"),
    "--top 10% --per category of a manifest": ("--manifest", "{manifest}", "--top", "10%", "--per", "category"),
    "--sample 100000 of the best half": ("--top", "50%", "--sample", "100000"),
    "--dedupe exact": ("--dedupe", "exact"),
}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a hundred thousand hashes, and as many rows")
    parser.add_argument("--hashes", type=int, nargs="+", help="default 100000 1000000")
    parser.add_argument("--rows", type=int, help="of the store (default 10,000,000)")
    parser.add_argument("--follow", nargs=3, metavar=("KIND", "HASHES", "BITS"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.follow:
        follow_once(options.follow[0], int(options.follow[1]), int(options.follow[2]))
        return 0

    print(machine_line("duckdb", "pyarrow", "numpy"))
    print("\n| hashes                          |    number | bits | seconds | peak MiB | left out | compared less |")
    print("| ------------------------------- | --------: | ---: | ------: | -------: | -------: | ------------: |")
    for count in options.hashes or ([100_000] if options.small else [100_000, 1_000_000]):
        for kind, bits in (
            ("a tenth are copies", 8),
            ("a tenth are copies", 10),
            ("all equal", 8),
            ("all nearly equal", 8),
        ):
            done = run_measured([sys.executable, __file__, "--follow", kind, str(count), str(bits)], os.environ)
            seconds, left, unmade = done.output.split()
            print(
                f"| {kind:31} | {count:9,} | {bits:4} | {float(seconds):7.1f} | {done.peak.private / MIB:8,.0f} "
                f"| {int(left):8,} | {int(unmade):13,} |",
                flush=True,
            )
    rows = options.rows or (100_000 if options.small else 10_000_000)
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        base = Path(folder)
        fill_store(base / "out", rows)
        write_manifest(base / "manifest.parquet", rows)
        print(f"\n{rows:,} rows in files of {SHARD_ROWS:,}; the whole command\n")
        print("| choice                                 | rows written | seconds | peak MiB | goal              |")
        print("| -------------------------------------- | -----------: | ------: | -------: | ----------------- |")
        for name, choice in CHOICES.items():
            words = [word.replace("{manifest}", str(base / "manifest.parquet")) for word in choice]
            target = base / "best.parquet"
            command = [sys.executable, "-m", "jobs", "curate", str(base / "out"), *words, "--out", str(target)]
            done = run_measured(command, {**os.environ, "PYTHONPATH": str(ROOT)})
            written = pq.read_metadata(target).num_rows
            print(
                f"| {name:38} | {written:12,} | {done.seconds:7.1f} | {done.peak.private / MIB:8,.0f} "
                f"| {GOAL}, {GOAL_MIB:,} MiB |",
                flush=True,
            )
    return 0


def follow_once(kind: str, count: int, bits: int) -> None:
    """Find near-duplicates in this process; prints seconds, how many are left out, and comparisons not made."""
    import time

    generator = np.random.default_rng(0)
    base = generator.integers(0, 2**64, count, dtype=np.uint64)
    if kind == "all equal":
        codes = np.full(count, base[0])
    elif kind == "all nearly equal":
        codes = _flipped(generator, np.full(count, base[0]), 6)
    else:
        codes = generator.permutation(
            np.concatenate([base[: -(count // 10)], _flipped(generator, base[: count // 10], 6)])
        )
    start = time.perf_counter()
    found = follow_best(codes, bits)
    seconds = time.perf_counter() - start
    print(seconds, int((found.leader != np.arange(count)).sum()), found.left_out)


def fill_store(out: Path, rows: int) -> None:
    """Write the scores files of made-up rows."""
    store = Store.for_run(str(out), FINGERPRINT, ARTIMUSE, keep_distribution=False)
    store.declare()
    for shard, start in enumerate(range(0, rows, SHARD_ROWS)):
        numbers = np.arange(start, min(rows, start + SHARD_ROWS))
        store.write_tables(f"scores/bench-{shard:05}.parquet", _scores(store.schema, numbers), None, "bench")


def write_manifest(path: Path, rows: int) -> None:
    """The same rows in another order, with a category each."""
    schema = pa.schema([("image_id", pa.string()), ("uri", pa.string()), ("category", pa.string())])
    generator = np.random.default_rng(1)
    order = generator.permutation(rows)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, rows, 2**20):
            numbers = order[start : start + 2**20]
            names = _names(numbers)
            categories = pa.array([f"category {number}" for number in generator.integers(0, CATEGORIES, len(numbers))])
            writer.write_table(pa.table([names, names, categories], schema=schema))


def _names(numbers: NDArray[np.int64]) -> pa.Array:
    return pa.array([f"s3://photos/originals/2026/{number % 1000:03}/photo-{number:09}.jpg" for number in numbers])


def _scores(schema: pa.Schema, numbers: NDArray[np.int64]) -> pa.Table:
    generator = np.random.default_rng(int(numbers[0]))
    count = len(numbers)
    points = generator.normal(52, 12, count).clip(0, 100)
    score = np.where(points > 64, np.round(points * 2) / 2, np.round(points * 4) / 4)
    failed = generator.random(count) < 0.01
    names = _names(numbers)
    digest = generator.bytes(8 * count).hex()
    columns = {
        "image_id": names,
        "uri": names,
        "version": pa.nulls(count, pa.string()),
        "status": pa.array(np.where(failed, "error", "ok")),
        "error_type": pa.array(["truncated"] * count, mask=~failed),
        "error_message": pa.array(["It is."] * count, mask=~failed),
        "retryable": pa.array([False] * count, mask=~failed),
        "score": pa.array(score.astype(np.float32), mask=failed),
        "score_std": pa.array(generator.normal(10, 3, count).astype(np.float32), mask=failed),
        "width": pa.array(generator.integers(400, 6000, count).astype(np.int32), mask=failed),
        "height": pa.array(generator.integers(400, 6000, count).astype(np.int32), mask=failed),
        "format": pa.array(generator.choice(["JPEG", "PNG", "WEBP"], count), mask=failed),
        "sha256": pa.array([digest[16 * place : 16 * place + 16] * 4 for place in range(count)], mask=failed),
        "phash": pa.array([digest[16 * place : 16 * place + 16] for place in range(count)], mask=failed),
        "warning": pa.nulls(count, pa.string()),
        **{field.name: pa.nulls(count, field.type) for field in CAPTURE},
        "run_id": pa.array(["bench"] * count),
        "scored_at": pa.array(np.zeros(count, dtype="datetime64[us]")),
        "copied_from": pa.nulls(count, pa.string()),
    }
    return pa.table([pa.chunked_array([columns[field.name]]).cast(field.type) for field in schema], schema=schema)


def _flipped(generator: np.random.Generator, codes: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    for _ in range(bits):
        codes = codes ^ np.uint64(1) << generator.integers(0, 64, len(codes)).astype(np.uint64)
    return codes


if __name__ == "__main__":
    sys.exit(main())
