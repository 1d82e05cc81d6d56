"""The golden set: a few pictures, two tiny checkpoints, and the published code's answers about them.

The answers are of the published code on transformers 4.37.2 in float32 on a CPU. The checkpoints have random weights,
so that any mistake of a kernel moves their answers; their texts are nonsense.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from artimuse_actor.artimuse import ArtiMuse
from artimuse_actor.checkpoint.checkpoint import Checkpoint
from artimuse_actor.engine.attention import Pages
from artimuse_actor.engine.device import set_arithmetic
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.engine.quantised import refuse_quantisation
from artimuse_actor.engine.weights import load_network
from artimuse_actor.images.decode import decode_image
from artimuse_actor.images.options import DecodeOptions, Pixels
from artimuse_actor.protocol.protocols import PROTOCOLS
from artimuse_actor.verify.finding import logits_of

FOLDER: Final = Path(__file__).parent / "golden_set"
MAX_NEW_TOKENS: Final = 48
"""Where the published code cut its texts."""


@dataclass(frozen=True)
class GoldenAnswers:
    """The published code's answers about N pictures.

    Attributes:
        scores: (N, Q), points.
        logits: (N, Q, 101), of the levels.
        texts: title of the question → text, for each picture; empty for a protocol without texts.
    """

    scores: NDArray[np.float64]
    logits: NDArray[np.float64]
    texts: tuple[dict[str, str], ...]


@cache
def golden_answers(protocol: str) -> GoldenAnswers:
    """The answers of one of the two checkpoints, in the order of `golden_pixels`."""
    answers = _record()[protocol]
    return GoldenAnswers(
        scores=np.array([[question["score"] for question in answer["scores"].values()] for answer in answers]),
        logits=np.array([[question["logits"] for question in answer["scores"].values()] for answer in answers]),
        texts=tuple(answer["texts"] for answer in answers if answer["texts"]),
    )


@cache
def golden_pixels() -> Pixels:
    """(N, 448, 448, 3) uint8, decoded here and now."""
    files = (FOLDER / "pictures" / name for name in _record()["pixels"])
    return np.stack([decode_image(file.read_bytes(), DecodeOptions()).pixels for file in files])


def changed_pictures() -> list[str]:
    """Names of the pictures that decode to other pixels here than where the answers were made."""
    digests = _record()["pixels"]
    here = (hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in golden_pixels())
    return [name for (name, digest), found in zip(digests.items(), here, strict=True) if found != digest]


def golden_checkpoint(protocol: str) -> Checkpoint:
    """The tiny checkpoint of `artimuse` or `unipercept`."""
    return Checkpoint(FOLDER / protocol / "checkpoint")


@cache
def quantised_answers(protocol: str, quantize: str) -> GoldenAnswers:
    """The answers with weights of fewer bits, in float32 on the CPU and without texts: the published code has none."""
    found = golden_model(protocol, torch.device("cpu"), torch.float32, quantize=quantize).score_pixels(golden_pixels())
    return GoldenAnswers(found.score.astype(np.float64), logits_of(found.distribution), ())


def golden_model(
    protocol: str,
    device: torch.device,
    dtype: torch.dtype,
    pages: Pages | None = None,
    quantize: str | None = None,
) -> ArtiMuse:
    """A tiny checkpoint on a device, with this attention in decode steps; with the one it would choose if None.

    Raises:
        UsageError: the device cannot work with weights of this kind.
    """
    refuse_quantisation(quantize, device, dtype)
    checkpoint = golden_checkpoint(protocol)
    set_arithmetic(device)
    network = load_network(checkpoint, device=device, dtype=dtype, quantize=quantize)
    return ArtiMuse(VisionLanguageModel(network, pages), checkpoint, PROTOCOLS[protocol])


@cache
def _record() -> dict[str, Any]:
    record: dict[str, Any] = json.loads((FOLDER / "answers.json").read_text())
    return record
