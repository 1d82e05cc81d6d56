from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset as ds
import pytest

pytestmark = pytest.mark.timeout(240)


def _demo(folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs", "demo", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "leaked" not in done.stderr  # as a library may say at the end of its process
    return done


@pytest.mark.process
@pytest.mark.slow
def test_the_demo_scores_its_library_and_agrees_with_the_ground_truth(tmp_path: Path) -> None:
    screen = _demo(tmp_path / "demo").stdout
    assert "64 rows = 60 ok + 4 failed." in screen
    srcc = re.search(r"SRCC against the ground truth: ([\d.]+) on 60 pictures", screen)
    assert srcc
    assert float(srcc[1]) >= 0.9
    python = re.search(r'^ +(\S*python) -c "(.*)"$', screen, re.MULTILINE)
    assert python
    shown = subprocess.run([python[1], "-c", python[2]], capture_output=True, text=True, timeout=60, check=True)
    assert "lost.jpg" in shown.stdout
    assert "artimuse score ~/Pictures --checkpoint ArtiMuse --out scored" in screen
    rows = ds.dataset(tmp_path / "demo" / "scored" / "scores").to_table().to_pylist()
    failed = {row["image_id"]: row["error_type"] for row in rows if row["status"] == "error"}
    assert failed == {
        "cut short.jpg": "truncated",
        "empty.jpg": "empty",
        "really a text.png": "not_an_image",
        "lost.jpg": "missing",
    }
    again = _demo(tmp_path / "demo").stdout
    assert "Nothing to do: all 64 images" in again
    assert srcc[0] in again


@pytest.mark.process
def test_the_demo_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert "is not empty and no demo" in _demo(tmp_path, code=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
