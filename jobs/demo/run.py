"""`artimuse demo`: a small photo library with known scores, scored by the main job, compared with the truth."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Final

from artimuse_actor.errors import UsageError
from artimuse_actor.whole_file import whole_file
from jobs.demo.pictures import make_picture
from jobs.evaluate.evaluate import evaluate_store
from jobs.manifest.manifest import ManifestOptions
from jobs.score.run import score
from jobs.score.settings import ScoreSettings
from jobs.score.text import show_score
from jobs.words import show

CHECKPOINT: Final = Path(__file__).parent / "checkpoint"
PICTURES: Final = 60
FIRST_SEED: Final = 900_000  # far from those of the training


def run_demo(folder: Path) -> float:
    """Make the library, score it, and print the result and the next command.

    Args:
        folder: where the pictures, the ground truth and the store go. A second call goes on with what is there.

    Returns:
        SRCC of the scores against the ground truth.
    """
    truth_file = folder / "test.json"
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file. Choose another --out.")
    if folder.exists() and any(folder.iterdir()) and not truth_file.exists():
        raise UsageError(f"{folder}: is not empty and no demo. Choose another --out.")
    if not truth_file.exists():
        make_library(folder)
    out = folder / "scored"
    show(f"Scoring {folder / 'images'} with the embedded demo checkpoint: trained on drawn pictures, no judge of art.")
    settings = ScoreSettings(
        source=str(truth_file),
        checkpoint=str(CHECKPOINT),
        out=str(out),
        manifest=ManifestOptions(images=str(folder / "images")),
        device="cpu",
        protocol="artimuse",
    )
    arguments = {"source": str(truth_file), "images": str(folder / "images"), "checkpoint": str(CHECKPOINT)}
    result = score(settings, {"command": "demo", **arguments, "protocol": "artimuse", "device": "cpu", "out": str(out)})
    show_score(result, settings)
    srcc = evaluate_store(str(out), str(truth_file)).agreement.srcc
    assert srcc.value is not None
    show(
        f"SRCC against the ground truth: {srcc.value:.3f} on {result.counts.ok} pictures the checkpoint has never seen "
        f"(95% interval {srcc.low:.3f} to {srcc.high:.3f})."
    )
    programs = _programs()
    show(
        f"""
Look at
  {folder}/images        the pictures, and {result.counts.failed} broken files among them
  {folder}/scored/scores one Parquet table, a row for each file:
      {programs}python -c "import pyarrow.dataset as d; print(d.dataset('{out}/scores').to_table().to_pandas())"
  {programs}artimuse report {out} --out {folder}/report.html
  {programs}artimuse evaluate {out} --plots {folder}/agreement.svg
Then, with a GPU and your own photos:
  {programs}artimuse score ~/Pictures --checkpoint ArtiMuse --out scored
  {programs}artimuse status scored"""
    )
    return srcc.value


def _programs() -> str:
    """The folder of `artimuse` and its python if it must be typed, such as `.venv/bin/` after `make demo`."""
    folder = os.path.dirname(sys.executable)
    on_path = shutil.which("artimuse") == os.path.join(folder, "artimuse")
    return "" if on_path else f"{os.path.relpath(folder)}/"


def make_library(folder: Path) -> None:
    """Draw the pictures, break a few files, and write `test.json` with the ground truth of each."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    truth: list[tuple[str, float]] = []
    for number in range(PICTURES):
        picture = make_picture(FIRST_SEED + number)
        name = f"{number:03}.{random.Random(number).choice(['jpg', 'jpg', 'png', 'webp'])}"
        picture.image.save(images / name, quality=95)
        truth.append((name, round(picture.gt_score, 3)))
    whole = (images / truth[0][0]).read_bytes()
    (images / "cut short.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "empty.jpg").touch()
    (images / "really a text.png").write_text("This is no picture.\n")
    truth += [(name, 50.0) for name in ("cut short.jpg", "empty.jpg", "really a text.png", "lost.jpg")]
    with whole_file(folder / "test.json") as growing:
        Path(growing).write_text(json.dumps([{"image": name, "gt_score": points} for name, points in truth], indent=1))
