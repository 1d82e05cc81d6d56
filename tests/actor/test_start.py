"""What a process that scores has to import before its first image."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.golden import golden_checkpoint, golden_images
from support.paths import REPO

SLOW_TO_IMPORT = ("transformers", "torch._dynamo", "torch.distributed.tensor", "sympy", "ray", "pandas", "matplotlib")


@pytest.mark.process
def test_a_process_that_scores_and_describes_imports_neither_transformers_nor_a_compiler() -> None:
    script = f"""
import sys
from artimuse_actor import ArtiMuse
model = ArtiMuse.load({str(golden_checkpoint("artimuse"))!r}, protocol="artimuse", device="cpu")
description = model.describe({str(golden_images()[0])!r}, max_new_tokens=2)
print(len(description.texts), [name for name in {SLOW_TO_IMPORT!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == "8 []\n"


@pytest.mark.process
def test_neither_does_an_actor() -> None:
    script = f"""
import sys
import artimuse_actor.actor, artimuse_actor.verify.self_check, artimuse_actor.verify.golden_checks
print([name for name in {SLOW_TO_IMPORT[:4]!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.process
def test_a_process_that_decodes_imports_neither_scipy_nor_what_a_store_needs() -> None:
    script = f"""
import sys
from artimuse_actor.images.child_decoder import DecodeOptions, decode_within_limits
decode_within_limits(open({str(golden_images()[0])!r}, "rb").read(), DecodeOptions())
print([name for name in ("scipy", "pyarrow", "pandas", "torch", "ray", "fsspec") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
