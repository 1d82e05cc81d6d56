"""The two golden checkpoints, their pictures, and what the published code says of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from loopback_hub import LoopbackHub

if TYPE_CHECKING:
    from artimuse_actor import ArtiMuse

# Before torch is first imported: its threads gain nothing on tiny networks and, on busy cores, spin for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

GOLDEN = Path(__file__).parent / "golden"
PROTOCOL_NAMES = ("artimuse", "unipercept")


def golden_checkpoint(protocol: str) -> Path:
    """Folder of a protocol's tiny checkpoint, in the published format."""
    return GOLDEN / protocol / "checkpoint"


def golden_images() -> list[Path]:
    """The pictures that the published code was run on, in the order of `golden_answers`."""
    return [GOLDEN / "artimuse" / "images" / answer["image"] for answer in golden_answers("artimuse")]


def golden_answers(protocol: str) -> list[dict[str, Any]]:
    """What the published code says of each picture, its one score of `artimuse` under the name of its column."""
    answers: list[dict[str, Any]] = json.loads((GOLDEN / protocol / "golden.json").read_text())["images"]
    for answer in answers:
        if "aesthetic" in answer["scores"]:
            answer["scores"]["score"] = answer["scores"].pop("aesthetic")
    return answers


def golden_protocol(protocol: str) -> dict[str, Any]:
    """The prompts of the published code and their token ids under the tiny checkpoint's tokenizer."""
    prompts: dict[str, Any] = json.loads((GOLDEN / protocol / "protocol.json").read_text())
    return prompts


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
