"""The two golden checkpoints, their pictures, and what the published code says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.paths import GOLDEN, GOLDEN_SET

PROTOCOL_NAMES = ("artimuse", "unipercept")


def golden_checkpoint(protocol: str) -> Path:
    """Folder of a protocol's tiny checkpoint, in the published format."""
    return GOLDEN_SET / protocol / "checkpoint"


def golden_images() -> list[Path]:
    """The pictures that the published code was run on, in the order of `golden_answers`."""
    return [GOLDEN / "artimuse" / "images" / answer["image"] for answer in golden_answers("artimuse")]


def golden_answers(protocol: str) -> list[dict[str, Any]]:
    """The published code's answers for each picture, its one score of `artimuse` under the name of its column."""
    answers: list[dict[str, Any]] = json.loads((GOLDEN / protocol / "golden.json").read_text())["images"]
    for answer in answers:
        if "aesthetic" in answer["scores"]:
            answer["scores"]["score"] = answer["scores"].pop("aesthetic")
    return answers


def golden_protocol(protocol: str) -> dict[str, Any]:
    """The prompts of the published code and their token ids under the tiny checkpoint's tokenizer."""
    prompts: dict[str, Any] = json.loads((GOLDEN / protocol / "protocol.json").read_text())
    return prompts


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
