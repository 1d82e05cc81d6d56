"""The job with a model that does next to nothing, beside Daft and a plain process pool.

    python bench/job/peers.py [--small]

Each contestant reads JPEG files, decodes them, resizes them to 448×448 and writes Parquet with id, size and mean value:
in turn, each time as processes of its own. The job does all that `artimuse score` does, so also a plan, SHA-256 and
perceptual hash of each image, staging, commit and reconciliation. Daft runs twice: with its own decoder and bilinear
resize, and with Pillow's bicubic one, which makes the pixels that the model was trained on.

Of each contestant the whole wall time counts, Ray's start included. What start-up hides shows in the further images: a
run over a quarter of the files is subtracted. Daft is installed into a temporary environment, never into this one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started

import pyarrow.dataset as ds

from bench.job.photos import make_photos
from bench.job.pipeline import run_job
from bench.measure.machine import ROOT, machine_line
from bench.measure.memory import MIB, Finished, run_measured

DAFT: Final = "0.7.26"
JOB: Final = "artimuse score"


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="200 images, one round")
    parser.add_argument("--images", type=int, default=2_000, help="default 2000")
    parser.add_argument("--rounds", type=int, default=3, help="of all contestants (default 3)")
    parser.add_argument("--daft-python", metavar="FILE", help="of an environment that has Daft, instead of a new one")
    options = parser.parse_args(arguments)
    images, rounds = (200, 1) if options.small else (options.images, options.rounds)

    print(f"{machine_line('ray', 'pyarrow', 'pillow')}; daft {DAFT}")
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        base = Path(folder)
        python = options.daft_python or install_daft(base / "daft")
        print(f"{make_photos(base / 'photos', images)}; {rounds} rounds in turn, medians\n")
        contestants: dict[str, Callable[[int], Finished]] = {
            JOB: lambda count: run_job(base, count, pace=0)[0],
            "Daft": lambda count: run_daft(base, python, "native", count),
            "Daft with Pillow": lambda count: run_daft(base, python, "pillow", count),
            "pool of 2 processes": lambda count: run_pool(base, count),
        }
        whole: dict[str, list[Finished]] = {name: [] for name in contestants}
        quarter: dict[str, list[Finished]] = {name: [] for name in contestants}
        for turn in range(rounds):
            for name in list(contestants)[:: -1 if turn % 2 else 1]:
                whole[name].append(contestants[name](images))
                quarter[name].append(contestants[name](images // 4))
    print_table(images, whole, quarter)
    return 0


def print_table(images: int, whole: dict[str, list[Finished]], quarter: dict[str, list[Finished]]) -> None:
    """One line for each contestant; ratios are medians over rounds."""
    print("|                     | wall time | images/s | of the job | further images/s | of the job | peak memory |")
    print("| ------------------- | --------: | -------: | ---------: | ---------------: | ---------: | ----------: |")
    rates = {name: [images / run.seconds for run in runs] for name, runs in whole.items()}
    more = images - images // 4
    further = {
        name: [more / (all_.seconds - some.seconds) for all_, some in zip(runs, quarter[name], strict=True)]
        for name, runs in whole.items()
    }
    for name, runs in whole.items():
        print(
            f"| {name:19} | {median(run.seconds for run in runs):7.1f} s | {median(rates[name]):8.1f} "
            f"| {_ratio(rates[name], rates[JOB]):9.2f}x | {median(further[name]):16.1f} "
            f"| {_ratio(further[name], further[JOB]):9.2f}x "
            f"| {median(run.peak.total for run in runs) / MIB:7,.0f} MiB |"
        )


def _ratio(rates: Sequence[float], others: Sequence[float]) -> float:
    return median(rate / other for rate, other in zip(rates, others, strict=True))


def run_daft(base: Path, python: str, decoder: str, count: int) -> Finished:
    """Daft on this machine's cores."""
    out = _fresh(base / "out")
    script = str(ROOT / "bench" / "job" / "peer_daft.py")
    environment = {**os.environ, "DO_NOT_TRACK": "true", "DAFT_PROGRESS_BAR": "0"}
    finished = run_measured([python, script, decoder, str(base / "photos"), str(count), str(out)], environment)
    _check(out, count)
    return finished


def run_pool(base: Path, count: int) -> Finished:
    """`concurrent.futures` with Pillow."""
    out = _fresh(base / "out")
    script = str(ROOT / "bench" / "job" / "peer_pool.py")
    finished = run_measured([sys.executable, script, str(base / "photos"), str(count), str(out)], os.environ)
    _check(out, count)
    return finished


def install_daft(folder: Path) -> str:
    """A new environment with Daft, and Pillow as here; returns its Python."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    wanted = [f"daft=={DAFT}", f"pillow=={version('pillow')}", f"numpy=={version('numpy')}"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True, capture_output=True)
    return python


def _fresh(out: Path) -> Path:
    """The output folder of the previous run, emptied."""
    if out.is_dir():
        shutil.rmtree(out)
    else:
        out.unlink(missing_ok=True)
    return out


def _check(out: Path, count: int) -> None:
    rows = ds.dataset(out, format="parquet").count_rows()
    if rows != count:
        raise RuntimeError(f"{out}: {rows} rows instead of {count}.")


if __name__ == "__main__":
    sys.exit(main())
