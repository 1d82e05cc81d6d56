"""Images in tars beside the same images as files, from a web server on loopback: requests, bytes, and images/s.

    python bench/job/tars.py --images 2000 --kilobytes 100 --rounds 3

Fetching alone: nothing is decoded or scored. A loopback server answers at once, so what fewer requests save over a
network is not in the images/s: the requests are to be read for that.
"""

from __future__ import annotations

import argparse
import io
import random
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started
sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "tests"))

from support.range_server import RangeServer

from artimuse_actor.fetch.fetch import fetch_many
from artimuse_actor.fetch.file_range import FileRange
from artimuse_actor.fetch.options import FetchOptions
from bench.measure.machine import machine_line
from jobs.manifest.manifest import Manifest
from jobs.manifest.source import open_manifest
from jobs.storage.file_parts import read_parts

OPTIONS = FetchOptions(allow_private_hosts=True)
UNIT_ROWS = 200


def write_images(folder: Path, images: int, size_bytes: int) -> None:
    generator = random.Random(0)
    (folder / "loose").mkdir()
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for number in range(images):
            data = generator.randbytes(int(size_bytes * generator.uniform(0.5, 1.5)))
            (folder / "loose" / f"{number:06}.jpg").write_bytes(data)
            for name, content in ((f"{number:06}.jpg", data), (f"{number:06}.json", b"{}" * 300)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def units(manifest: Manifest) -> Iterator[list[tuple[str, str | None]]]:
    rows = [row for batch in manifest.batches() for row in batch.rows.select(["uri", "source_version"]).to_pylist()]
    for start in range(0, len(rows), UNIT_ROWS):
        yield [(row["uri"], row["source_version"]) for row in rows[start : start + UNIT_ROWS]]


def read_tars(manifest: Manifest) -> int:
    read = 0
    for unit in units(manifest):
        parts = [part for uri, version in unit if (part := FileRange.parse(uri, version))]
        read += sum(isinstance(data, bytes) for data in read_parts(parts, OPTIONS))
    return read


def read_files(manifest: Manifest) -> int:
    return sum(
        isinstance(data, bytes) for unit in units(manifest) for data in fetch_many([uri for uri, _ in unit], OPTIONS)
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--kilobytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    print(machine_line("aiohttp", "pyarrow"))
    with tempfile.TemporaryDirectory() as name, RangeServer(Path(name)) as server:
        folder = Path(name)
        write_images(folder, asked.images, asked.kilobytes * 1000)
        began = time.process_time()
        tars = open_manifest(f"{server.url}/00000.tar", fetching=OPTIONS)
        found = list(units(tars))
        print(
            f"headers: {sum(map(len, found)):,} images of {2 * asked.images:,} members, {server.requests} requests, "
            f"{server.sent_bytes / 1e6:.0f} MB, {time.process_time() - began:.2f} CPU s with the server"
        )
        uris = [f"{server.url}/loose/{number:06}.jpg" for number in range(asked.images)]
        pq.write_table(pa.table({"uri": uris}), folder / "m.parquet")
        files = open_manifest(str(folder / "m.parquet"))
        ways: dict[str, tuple[Callable[[Manifest], int], Manifest]] = {
            "tar": (read_tars, tars), "files": (read_files, files),
        }  # fmt: skip
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(asked.rounds):
            for way, (read, manifest) in ways.items():
                server.forget()
                began_s = time.perf_counter()
                assert read(manifest) == asked.images
                rates[way].append(asked.images / (time.perf_counter() - began_s))
                about = f"{server.requests:,} requests, {server.sent_bytes / 1e6:.0f} MB"
                print(f"{way:6} {rates[way][-1]:8.0f} images/s, {about}")
        medians = {way: statistics.median(values) for way, values in rates.items()}
        print(f"median: tar {medians['tar']:.0f}, files {medians['files']:.0f} images/s, "
              f"ratio {medians['tar'] / medians['files']:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
