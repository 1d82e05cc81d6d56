"""The report: how long it takes by the number of rows, how large it is, and when a browser first paints it.

    python bench/tables/report.py [--small]

Each report is a process of its own. Rows are drawn, with eight texts of 94 words each; the pictures are those of the
demo, 0.2 megapixels. First paint is what Chromium reports of itself (the median of five, in a new tab each).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started
sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "tests"))

from support.browser import find_chromium
from support.report_stores import write_large_store

from bench.measure.machine import machine_line
from jobs.demo.run import make_library

ROWS: Final = (10_000, 100_000, 1_000_000, 10_000_000)
THUMBNAILS: Final = (0, 200, 3000)
SHARD_ROWS: Final = 50_000
PAINTS: Final = 5
GOALS: Final = "5 MB and a first paint within 1,000 ms for 1,000,000 rows"


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="ten thousand rows")
    parser.add_argument("--make", nargs=3, metavar=("STORE", "ROWS", "PICTURES"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.make:
        make_store(Path(options.make[0]), int(options.make[1]), sorted(Path(options.make[2]).glob("0*")))
        return 0
    print(machine_line("pyarrow", "pillow", "playwright"))
    print("\n|       rows | pictures | wall, s | peak memory, MB | size, MB | first paint, ms |")
    print("| ---------: | -------: | ------: | --------------: | -------: | --------------: |")
    with tempfile.TemporaryDirectory() as folder:
        make_library(Path(folder) / "demo")
        pictures = Path(folder) / "demo" / "images"
        for rows in ROWS[:1] if options.small else ROWS:
            store = Path(folder) / str(rows)
            # In a process of its own, since Linux hands its peak of memory down to the processes that it starts.
            subprocess.run([sys.executable, __file__, "--make", store, str(rows), pictures], check=True)
            for thumbnails in THUMBNAILS:
                out = Path(folder) / "report.html"
                wall, peak, told = _report(store, out, thumbnails)
                paint = _first_paint(out)
                print(
                    f"| {rows:10,} | {told['pictures']:8,} | {wall:7.1f} | {peak / 1e6:15,.0f} "
                    f"| {told['size_bytes'] / 1e6:8.2f} | {paint:>15} |",
                    flush=True,
                )
    print(f"\ngoal: {GOALS}")
    return 0


def make_store(folder: Path, rows: int, pictures: list[Path]) -> None:
    """A million different rows at most; more are the same files again."""
    different = min(rows, 1_000_000)
    write_large_store(folder, different, pictures, SHARD_ROWS, different_texts=20_000)
    for table in ("scores", "texts"):
        files = sorted((folder / table).iterdir())
        for again in range(1, rows // different):
            for file in files:
                os.link(file, file.with_name(f"again{again}-{file.name}"))


def _report(store: Path, out: Path, thumbnails: int) -> tuple[float, int, dict[str, int]]:
    """Seconds, peak bytes of the largest process, and what the command says."""
    command = [sys.executable, "-m", "jobs", "report", str(store), "--out", str(out), "--thumbnails", str(thumbnails)]
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = json.loads(process.stdout.read())
    _, code, usage = os.wait4(process.pid, 0)
    process.returncode = code
    assert code == 0
    return time.perf_counter() - began, usage.ru_maxrss * 1024, told


def _first_paint(page_file: Path) -> str:
    program = find_chromium()
    if program is None:
        return "no Chromium"
    from playwright.sync_api import sync_playwright

    times = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        for _ in range(PAINTS):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(page_file.as_uri())
            page.wait_for_timeout(1000)
            times.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
            page.close()
        browser.close()
    return f"{statistics.median(times):.0f}"


if __name__ == "__main__":
    sys.exit(main())
