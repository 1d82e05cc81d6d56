from __future__ import annotations

import os
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
import torch

from artimuse_actor.engine import layer_kernels
from artimuse_actor.engine.layer_kernels import PlainKernels, TritonKernels, choose_kernels

TRITON = Path(sys.prefix, "triton")  # `make test` puts it there
TESTS = Path(__file__).resolve().parents[1]
needs_triton = pytest.mark.skipif(not TRITON.is_dir(), reason="`make test` installs Triton, where it has a build")
SIZES = {"heads": 4, "kv_heads": 2, "head_dim": 24}


def with_triton(module: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a module in a process that has Triton."""
    folders = os.pathsep.join(map(str, (TRITON, TESTS, TESTS.parent)))
    environment = {**os.environ, "PYTHONPATH": folders, "OMP_NUM_THREADS": "1", **settings}
    return subprocess.run(
        [sys.executable, "-m", module], env=environment, check=True, timeout=280, capture_output=True, text=True
    )


@needs_triton
@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_tritons_kernels_give_what_torchs_operators_give() -> None:
    with_triton("support.interpreted_kernels", TRITON_INTERPRET="1")


@needs_triton
@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_they_compile_for_cards_that_are_not_here_and_fit_into_small_ones(tmp_path: Path) -> None:
    found = with_triton("support.compiled_kernels", TRITON_CACHE_DIR=str(tmp_path))
    assert found.stderr == ""
    lines = [line.split() for line in found.stdout.splitlines()]
    for card in ("80", "90", "120", "gfx942"):
        assert {name for arch, name, _ in lines if arch == card} >= {
            "gate_rows",
            "rotate_heads",
            "append",
            "attend_pages",
        }
    assert all(int(size_bytes) <= 64 << 10 for *_, size_bytes in lines)  # what each of these cards has


@pytest.mark.parametrize(
    ("device", "installed", "off", "chosen", "said"),
    [
        ("cuda", True, 0.0, TritonKernels, ""),
        ("cuda", True, 0.06, PlainKernels, "their numbers are 0.06 off"),
        ("cuda", True, float("nan"), PlainKernels, "their numbers are nan off"),
        ("cuda", True, "Failed to find C compiler", PlainKernels, "Failed to find C compiler"),
        ("cuda", False, "not asked", PlainKernels, ""),
        ("cpu", True, "not asked", PlainKernels, ""),
        ("mps", True, "not asked", PlainKernels, ""),
    ],
)
def test_kernels_are_used_where_they_run_and_agree(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    device: str,
    installed: bool,
    off: float | str,
    chosen: type[PlainKernels],
    said: str,
) -> None:
    tries = count()

    def difference(*_: object, **__: object) -> float:
        if isinstance(off, str):
            raise RuntimeError(f"{off}: /tmp/tmp{next(tries)}/launcher.c")  # another text each time
        return off

    monkeypatch.setattr(layer_kernels, "_said", set())
    monkeypatch.setattr(layer_kernels, "has_triton", lambda: installed)
    monkeypatch.setattr(layer_kernels, "largest_difference", difference)
    for _ in range(2):
        assert choose_kernels(torch.device(device), torch.bfloat16, **SIZES) is chosen
    assert said in caplog.text
    assert len(caplog.records) == bool(said)  # once in a process


def test_a_kernel_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(PlainKernels):
        """Forgets that positions differ from token to token."""

        @staticmethod
        def rotated(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
            return PlainKernels.rotated(heads, cos[:1], sin[:1])

    for kernels, least, most in ((PlainKernels, 0.0, 0.0), (Wrong, 0.5, 10.0)):
        monkeypatch.setattr(layer_kernels, "TritonKernels", kernels)
        assert least <= layer_kernels.largest_difference(torch.device("cpu"), torch.float32, **SIZES) <= most
