"""Browsing: how long a page of a large store takes, by what is asked.

    python bench/tables/browse.py [--rows 1000000]

The server is a process of its own and is asked over HTTP, as by its page. Rows are drawn, with eight texts of 94 words
each, of 20,000 different ones. Each question is asked five times, each time with another bound or word, so that nothing
is found in the cache of searches; the figures are medians. A page has 120 rows. In Chromium, the time from the key to
the last of them, without their pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import urlopen

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started
sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "tests"))

from support.browser import find_chromium

from bench.measure.machine import machine_line
from bench.tables.report import make_store
from jobs.demo.run import make_library

ROUNDS: Final = 5
PAGE: Final = 120
GOAL: Final = "no page takes longer than half a second of a million rows, searches in texts apart"
_WORDS: Final = ("balance", "calm", "depth", "focus", "light")
Asked = Callable[[int, int], dict[str, Any]]
QUESTIONS: Final[dict[str, Asked]] = {
    "all, by score": lambda turn, _: {"score_from": -1 - turn},
    "all, by name": lambda turn, _: {"score_from": -11 - turn, "sort": "name"},
    "a further page of a search, in the middle": lambda turn, rows: {"sort": "date", "from": rows // 2 + turn * PAGE},
    "words in names, paths and errors": lambda turn, _: {"words": f"{turn}77"},
    "words, a bound and a format, by date": lambda turn, _: {
        **{"words": f"{turn}7", "score_from": 60, "format": "JPEG", "sort": "date"},
    },
    "failed rows with a word": lambda turn, _: {"outcome": "error", "order": "up", "words": f"0{turn}"},
    "words in eight texts": lambda turn, _: {"words": f"{_WORDS[turn]} mood", "scope": "texts"},
}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        make_library(Path(folder) / "demo")
        store = Path(folder) / "store"
        make_store(store, options.rows, sorted((Path(folder) / "demo" / "images").glob("0*")))
        print(machine_line("duckdb", "pyarrow", "playwright"))
        began = time.perf_counter()
        command = [sys.executable, "-m", "jobs", "browse", str(store), "--no-open"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        wall, cpu = time.perf_counter() - began, _cpu_s(process.pid)
        print(f"{options.rows:,} rows; ready after {wall:.1f} s, {cpu:.1f} s of CPU\n")
        print("|                                           | rows found |    ms | ms of CPU |")
        print("| ----------------------------------------- | ---------: | ----: | --------: |")
        for name, asked in QUESTIONS.items():
            print(_line(name, asked, url, options.rows, process.pid), flush=True)
        print(f"| the next page in Chromium (key n)         |            | {_turned(url):>5} |           |")
        peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())  # not that of its parent
        process.terminate()  # SIGINT is ignored by what a shell starts in the background
        process.communicate()
        print(f"\npeak memory {int(peak[1]) * 1024 / 1e6 if peak else 0:,.0f} MB\ngoal: {GOAL}")
    return 0


def _line(name: str, asked: Asked, url: str, rows: int, pid: int) -> str:
    walls, cpus, found = [], [], 0
    edition = json.load(urlopen(f"{url}about"))["edition"]
    for turn in range(ROUNDS):
        parameters = {"edition": edition, "from": 0, "count": PAGE, **asked(turn, rows)}
        cpu, began = _cpu_s(pid), time.perf_counter()
        found = json.load(urlopen(f"{url}rows?{urlencode(parameters)}"))["total"]
        walls.append(time.perf_counter() - began)
        cpus.append(_cpu_s(pid) - cpu)
    wall, cpu = (statistics.median(times) * 1000 for times in (walls, cpus))
    return f"| {name:41} | {found:10,} | {wall:5.0f} | {cpu:9.0f} |"


def _cpu_s(pid: int) -> float:
    """Seconds of CPU, of user and system, that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _turned(url: str) -> str:
    """Milliseconds from a key to the rows of the next page."""
    program = find_chromium()
    if program is None:
        return "none"
    from playwright.sync_api import sync_playwright

    times = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url)
        page.wait_for_selector(".tile img.shown")
        for _ in range(ROUNDS):
            first = page.locator(".tile .name").first.inner_text()
            times.append(
                page.evaluate(
                    """first => new Promise((done) => {
                        const began = performance.now();
                        new MutationObserver((_, observer) => {
                            const name = document.querySelector(".tile .name");
                            if (!name || name.textContent === first) return;
                            observer.disconnect();
                            requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
                        }).observe(document.getElementById("pictures"), { childList: true });
                        document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "n", bubbles: true }));
                    })""",
                    first,
                )
            )
        browser.close()
    return f"{statistics.median(times):.0f}"


if __name__ == "__main__":
    sys.exit(main())
