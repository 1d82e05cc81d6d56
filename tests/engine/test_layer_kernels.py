from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.interpreted_kernels import CHECKS

from artimuse_actor.engine import layer_kernels
from artimuse_actor.engine.layer_kernels import PlainKernels, TritonKernels, choose_kernels

TRITON = Path(sys.prefix, "triton")  # `make test` puts it there
TESTS = Path(__file__).resolve().parents[1]
SIZES = {"heads": 4, "kv_heads": 2, "head_dim": 24}


@pytest.mark.process
@pytest.mark.skipif(not TRITON.is_dir(), reason="Triton has no build for this machine")
@pytest.mark.parametrize("check", CHECKS)
def test_tritons_kernels_give_what_torchs_operators_give(check: str) -> None:
    folders = os.pathsep.join(map(str, (TRITON, TESTS, TESTS.parent)))
    subprocess.run(
        [sys.executable, "-m", "support.interpreted_kernels", check],
        env={**os.environ, "PYTHONPATH": folders, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=100,
    )


@pytest.mark.parametrize(
    ("device", "installed", "off", "chosen", "said"),
    [
        ("cuda", True, 0.0, TritonKernels, ""),
        ("cuda", True, 0.06, PlainKernels, "their numbers are 0.06 off"),
        ("cuda", True, float("nan"), PlainKernels, "their numbers are nan off"),
        ("cuda", True, RuntimeError("Failed to find C compiler"), PlainKernels, "Failed to find C compiler"),
        ("cuda", False, AssertionError("not asked"), PlainKernels, ""),
        ("cpu", True, AssertionError("not asked"), PlainKernels, ""),
        ("mps", True, AssertionError("not asked"), PlainKernels, ""),
    ],
)
def test_kernels_are_used_where_they_run_and_agree(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    device: str,
    installed: bool,
    off: float | Exception,
    chosen: type[PlainKernels],
    said: str,
) -> None:
    def difference(*_: object, **__: object) -> float:
        if isinstance(off, Exception):
            raise off
        return off

    monkeypatch.setattr(layer_kernels, "has_triton", lambda: installed)
    monkeypatch.setattr(layer_kernels, "largest_difference", difference)
    assert choose_kernels(torch.device(device), torch.bfloat16, **SIZES) is chosen
    assert said in caplog.text
    assert bool(caplog.records) == bool(said)


def test_a_kernel_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(PlainKernels):
        """Forgets that positions differ from token to token."""

        @staticmethod
        def rotated(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
            return PlainKernels.rotated(heads, cos[:1], sin[:1])

    for kernels, least, most in ((PlainKernels, 0.0, 0.0), (Wrong, 0.5, 10.0)):
        monkeypatch.setattr(layer_kernels, "TritonKernels", kernels)
        assert least <= layer_kernels.largest_difference(torch.device("cpu"), torch.float32, **SIZES) <= most
