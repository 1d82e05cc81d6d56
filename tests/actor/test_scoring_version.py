"""The scoring version stands for pixels and scores: neither moves without it.

`tests/golden/scoring.json` has what the code of a version makes of the golden pictures. A change that moves one of them
on purpose raises `SCORING_VERSION` and writes the record anew:

    PYTHONPATH=.:tests python tests/actor/test_scoring_version.py
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

import numpy as np
import pytest
from support.golden import PROTOCOL_NAMES, golden_checkpoint, golden_images
from support.paths import GOLDEN

from artimuse_actor import ArtiMuse, DecodeOptions
from artimuse_actor.images.decode import decode_image
from artimuse_actor.images.options import Pixels
from artimuse_actor.scoring_version import SCORING_VERSION
from jobs.demo.run import CHECKPOINT

RECORD: Final = GOLDEN / "scoring.json"
OPTIONS: Final = (
    *(DecodeOptions(), DecodeOptions("fast"), DecodeOptions(exif_rotate=True)),
    DecodeOptions(preprocess="photo"),
)
CHECKPOINTS: Final = {name: (golden_checkpoint(name), name) for name in PROTOCOL_NAMES} | {
    "demo": (CHECKPOINT, "artimuse")
}
SCORED: Final = 4


def _pixels(options: DecodeOptions) -> Pixels:
    """(13, 448, 448, 3) uint8."""
    return np.stack([decode_image(path.read_bytes(), options).pixels for path in golden_images()])


def _digest(pixels: Pixels) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def _scores(name: str) -> list[list[float]]:
    folder, protocol = CHECKPOINTS[name]
    model = ArtiMuse.load(folder, protocol=protocol, device="cpu", dtype="float32")
    found = model.score_pixels(_pixels(OPTIONS[0])[:SCORED]).score
    return [[round(float(points), 4) for points in image] for image in found]


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(RECORD.read_text())
    return read


def test_the_record_is_that_of_this_version(record: dict[str, Any]) -> None:
    assert record["version"] == SCORING_VERSION


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options.version)
def test_no_pixel_moves_in_a_version(options: DecodeOptions, record: dict[str, Any]) -> None:
    assert _digest(_pixels(options)) == record["pixels"][options.version]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_no_score_moves_in_a_version(name: str, record: dict[str, Any]) -> None:
    np.testing.assert_allclose(_scores(name), record["scores"][name], atol=1e-3)


if __name__ == "__main__":
    made = {
        "version": SCORING_VERSION,
        "pixels": {options.version: _digest(_pixels(options)) for options in OPTIONS},
        "scores": {name: _scores(name) for name in CHECKPOINTS},
    }
    RECORD.write_text(json.dumps(made, indent=1) + "\n")
