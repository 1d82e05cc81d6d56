"""Fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.golden import PROTOCOL_NAMES, golden_checkpoint
from support.loopback_hub import LoopbackHub

if TYPE_CHECKING:
    from artimuse_actor import ArtiMuse

# Before torch is first imported: its threads gain nothing on tiny networks and, on busy cores, spin for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def models() -> dict[str, ArtiMuse]:
    """Both golden checkpoints, loaded; tests leave `batch_size` as they found it."""
    from artimuse_actor import ArtiMuse

    return {name: ArtiMuse.load(golden_checkpoint(name), protocol=name) for name in PROTOCOL_NAMES}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # Digests of large files are remembered in the user's home otherwise.
    monkeypatch.setenv("ARTIMUSE_CACHE", str(tmp_path_factory.getbasetemp() / "artimuse-cache"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """An empty hub on loopback that `artimuse_actor.checkpoint.names` asks, with a download cache of its own."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with LoopbackHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
