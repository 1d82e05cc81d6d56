"""Parts of a measurement on a lent machine: a failure, a part that hangs and a lack of time lose no other's result."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.paths import REPO

from bench.engine.gpu_table import Row
from bench.engine.guarded_parts import GuardedParts

CPU = torch.device("cpu")


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[GuardedParts]:
    found = GuardedParts(CPU, 5, tmp_path / "out")
    yield found
    found.close()


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_a_part_that_fails_loses_no_other_result(
    parts: GuardedParts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    assert parts.run("first", lambda: [Row("scores", 12.5)]) == [Row("scores", 12.5)]
    assert parts.run("second", fails) is None
    assert parts.run("third", lambda: {512: 0.0129, "model": torch.nn.Identity()}) is not None
    assert (parts.failed, parts.skipped) == (["second"], [])
    assert "illegal memory access" in capsys.readouterr().err
    first, second, third = _lines(tmp_path / "out")
    assert first["result"][0]["images_per_s"] == 12.5
    assert second["error"] == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert third["result"] == {"512": 0.0129, "model": "Identity"}


def test_a_part_that_would_take_too_long_is_left_out(parts: GuardedParts) -> None:
    assert parts.run("long", lambda: 1, expected_s=400) is None
    assert parts.run("short", lambda: 2, expected_s=5) == 2
    assert parts.skipped == ["long"]


@pytest.mark.process
def test_a_part_that_hangs_ends_with_the_time_and_says_where(tmp_path: Path) -> None:
    code = f"""
import sys, time, torch
from pathlib import Path
sys.path.insert(0, {str(REPO)!r})
from bench.engine import guarded_parts
guarded_parts._LAST_S = 0
parts = guarded_parts.GuardedParts(torch.device("cpu"), 0.02, Path({str(tmp_path)!r}))
parts.run("first", lambda: 1)
def hangs():
    time.sleep(60)
parts.run("second", hangs)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "in hangs" in done.stderr
    assert [line["part"] for line in _lines(tmp_path)] == ["first"]


@pytest.mark.process  # nvcc, or what else torch looks for
def test_the_table_is_printed_whatever_fails(
    parts: GuardedParts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.engine import gpu  # imports transformers
    from bench.engine.gpu_scores import SMALL_PLAN
    from bench.engine.gpu_texts import SMALL_TEXTS

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no kernel image is available for execution on the device")

    measured = (
        "check_parity",
        "check_texts",
        "measure",
        "score_kernels",
        "measure_step",
        "report_noise",
        "show_attention",
    )
    for name in measured:
        monkeypatch.setattr(gpu, name, fails)
    monkeypatch.setattr(gpu, "measure_row", lambda *_: Row("texts of 12, 16 in flight", 3.5, 336.0, 0.0, 7.0))
    plan = replace(SMALL_PLAN, batch_sizes=(1,), images=1, rounds=1, matrix_sizes=(64,))
    assert gpu.measure_all(parts, plan, SMALL_TEXTS, CPU, 0) == 1
    screen = capsys.readouterr().out
    assert (
        "| texts of 12, 16 in flight           |     3.50 |      336 |            - |     - |        50.0% |" in screen
    )
    assert "failed: parity of scores, float32, parity of texts, float32, " in screen
    assert "parity of scores, float32: not known; parity of texts, float32: not known; parity of scores: not" in screen
    assert "| scores, B = 1, fp8-products" in screen  # the CPU computes its products in float32
