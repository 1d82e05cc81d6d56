"""`artimuse serve` asked by one client, by several at once, and for several pictures in a request, in turn.

    python bench/job/serve.py [--small]

The demo's checkpoint on the CPU, photos of half a megapixel. Beside them `ArtiMuse.score` in this process, on the same
files and in the same batches: it sends nothing, and decodes and scores in one thread.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started

import requests
import torch

from artimuse_actor import ArtiMuse
from bench.job.photos import make_photos
from bench.measure.machine import ROOT, machine_line
from bench.measure.timing import alternate

CHECKPOINT: Final = ROOT / "jobs" / "demo" / "checkpoint"
CLIENTS: Final = 8
BATCH: Final = 8
TOKEN: Final = "token-of-the-benchmark"


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 if the scores differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="16 images, one round")
    parser.add_argument("--images", type=int, default=128, help="of a round (default 128)")
    parser.add_argument("--rounds", type=int, default=5, help="of all contestants (default 5)")
    options = parser.parse_args(arguments)
    images, rounds = (16, 1) if options.small else (options.images, options.rounds)

    torch.set_num_threads(1)
    print(machine_line("torch", "aiohttp", "pillow"))
    with tempfile.TemporaryDirectory(prefix="bench") as folder, running(Path(folder)) as url:
        print(f"{make_photos(Path(folder) / 'photos', images)}; {rounds} rounds in turn, medians; batches of {BATCH}\n")
        files = [path.read_bytes() for path in sorted((Path(folder) / "photos").iterdir())]
        model = ArtiMuse.load(CHECKPOINT, batch_size=BATCH)
        contestants: dict[str, Callable[[], list[float]]] = {
            "one client, one after the other": lambda: one_by_one(url, files),
            f"{CLIENTS} clients at once": lambda: at_once(url, files),
            f"one client, {BATCH} in a request": lambda: several(url, files),
            "ArtiMuse.score, in this process": lambda: [found.score for found in model.score(files)],
        }
        scores = {name: work() for name, work in contestants.items()}  # also the warm-up
        batches = {name: mean_batch(url, work) for name, work in contestants.items() if "client" in name}
        seconds = alternate(contestants, rounds, torch.device("cpu"))
    print_table(images, seconds, batches)
    expected = scores.popitem()[1]
    largest = max(abs(one - other) for found in scores.values() for one, other in zip(found, expected, strict=True))
    print(f"\nscores differ by {largest:.1e} points at most from those of ArtiMuse.score")
    return 0 if largest < 1e-3 else 1


def print_table(images: int, seconds: dict[str, list[float]], batches: dict[str, float]) -> None:
    """One line for each contestant; ratios are medians over rounds."""
    first = next(iter(seconds.values()))
    print("|                                  | images/s | of one client | pictures of a batch |")
    print("| -------------------------------- | -------: | ------------: | ------------------: |")
    for name, times in seconds.items():
        ratio = median(one / other for one, other in zip(first, times, strict=True))
        size = f"{batches[name]:.1f}" if name in batches else f"{BATCH:.1f}"
        print(f"| {name:32} | {images / median(times):8.1f} | {ratio:12.2f}x | {size:>19} |")


def one_by_one(url: str, files: Sequence[bytes]) -> list[float]:
    """Scores, a request for each picture, on one connection."""
    with session() as client:
        return [send(client, url, data, "image/jpeg")[0] for data in files]


def at_once(url: str, files: Sequence[bytes]) -> list[float]:
    """The same from several threads, each with a connection of its own."""
    own = threading.local()

    def score(data: bytes) -> float:
        if not hasattr(own, "client"):
            own.client = session()
        return send(own.client, url, data, "image/jpeg")[0]

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(score, files))


def several(url: str, files: Sequence[bytes]) -> list[float]:
    """Several pictures in each request, as JSON."""
    found: list[float] = []
    with session() as client:
        for first in range(0, len(files), BATCH):
            images = [base64.b64encode(data).decode() for data in files[first : first + BATCH]]
            found += send(client, url, json.dumps({"images": images}).encode(), "application/json")
    return found


def session() -> requests.Session:
    """A client with the token."""
    client = requests.Session()
    client.headers["Authorization"] = f"Bearer {TOKEN}"
    return client


def send(client: requests.Session, url: str, body: bytes, kind: str) -> list[float]:
    """The scores of one request."""
    answer = client.post(f"{url}/score", data=body, headers={"Content-Type": kind}, timeout=60)
    answer.raise_for_status()
    results: list[dict[str, Any]] = answer.json()["results"]
    return [result["score"] for result in results]


def mean_batch(url: str, work: Callable[[], object]) -> float:
    """Pictures of a forward pass on average, while this is done."""
    before = batch_meters(url)
    work()
    pictures, passes = (now - then for now, then in zip(batch_meters(url), before, strict=True))
    return pictures / passes


def batch_meters(url: str) -> tuple[float, float]:
    """Pictures and forward passes so far."""
    with session() as client:
        text = client.get(f"{url}/metrics", timeout=60).text
    (pictures,) = re.findall(r"^artimuse_serve_batch_images_sum (\S+)$", text, re.MULTILINE)
    (passes,) = re.findall(r"^artimuse_serve_batch_images_count (\S+)$", text, re.MULTILINE)
    return float(pictures), float(passes)


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """A server, ready; its url."""
    command = [sys.executable, "-m", "jobs", "serve", "--checkpoint", str(CHECKPOINT), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ARTIMUSE_SERVE_TOKEN": TOKEN}
    screen = folder / "screen"
    with screen.open("wb") as file:
        server = subprocess.Popen(
            [*command, "--batch-size", str(BATCH)], cwd=ROOT, env=environment, stdout=file, stderr=file
        )
    try:
        while "Ready: " not in screen.read_text():
            if server.poll() is not None:
                raise RuntimeError(screen.read_text())
            time.sleep(0.1)
        yield re.findall(r"http://\S+", screen.read_text())[0]
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
