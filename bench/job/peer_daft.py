"""The work of `bench/job/peers.py` with Daft.

    python bench/job/peer_daft.py native|pillow FOLDER COUNT OUT

Runs in an environment of its own that has Daft and Pillow and not this project.
"""

# Daft is no dependency of this project, and untyped where it is not installed.
# mypy: ignore-errors

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import daft
import numpy as np
from daft import DataType, col
from PIL import Image

SIZE = 448


@daft.func.batch(return_dtype=DataType.float64())
def mean_of_image(images: Any) -> list[float]:
    """Mean value of each picture."""
    return [float(np.asarray(image).mean()) for image in images.to_pylist()]


@daft.func.batch(
    return_dtype=DataType.struct(
        {"width": DataType.int64(), "height": DataType.int64(), "mean": DataType.float64()},
    )
)
def decode_with_pillow(files: Any) -> list[dict[str, float]]:
    """The published preprocessing, of files that Daft has read."""
    rows = []
    for data in files.to_pylist():
        image = Image.open(io.BytesIO(data))
        pixels = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        rows.append({"width": image.width, "height": image.height, "mean": float(np.asarray(pixels).mean())})
    return rows


def main(decoder: str, folder: str, count: int, out: str) -> None:
    """Read, decode, resize, write."""
    paths = sorted(str(path) for path in Path(folder).iterdir())[:count]
    files = daft.from_pydict({"image_id": paths}).into_batches(32).with_column("data", col("image_id").download())
    if decoder == "native":
        decoded = files.with_column("image", col("data").decode_image(mode="RGB"))
        sized = decoded.select(
            "image_id",
            col("image").image_width().alias("width"),
            col("image").image_height().alias("height"),
            mean_of_image(col("image").resize(SIZE, SIZE)).alias("mean"),
        )
    else:
        about = files.select("image_id", decode_with_pillow(col("data")).alias("about"))
        sized = about.select("image_id", *(col("about").get(name).alias(name) for name in ("width", "height", "mean")))
    sized.write_parquet(out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
    os._exit(0)  # Daft's threads now and then crash the interpreter's own way out, when all is written
