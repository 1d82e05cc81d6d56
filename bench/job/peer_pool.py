"""The work of `bench/job/peers.py` with Pillow in a pool of two processes.

    python bench/job/peer_pool.py FOLDER COUNT OUT

Imports nothing of this project.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIZE = 448


def decode(path: str) -> tuple[str, int, int, float]:
    """Id, size and mean value of one picture."""
    with Image.open(path) as image:
        pixels = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        return path, image.width, image.height, float(np.asarray(pixels).mean())


def main(folder: str, count: int, out: str) -> None:
    """Read, decode, resize, write."""
    paths = sorted(str(path) for path in Path(folder).iterdir())[:count]
    with ProcessPoolExecutor(2) as pool:
        rows = list(pool.map(decode, paths, chunksize=32))
    pq.write_table(pa.table([*zip(*rows, strict=True)], names=["image_id", "width", "height", "mean"]), out)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
