"""A checkpoint's own system message, in the prompts as in the published code."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from support.golden import golden_images
from support.photo_library import make_photos
from support.score_job import run_artimuse, table_rows
from support.tiny_checkpoints import change_config, copy_checkpoint

from artimuse_actor import ArtiMuse
from artimuse_actor.checkpoint.checkpoint import Checkpoint
from artimuse_actor.engine.scoring import expected_level, level_probabilities
from artimuse_actor.errors import CheckpointError
from artimuse_actor.images.decode import decode_image
from artimuse_actor.protocol.multiple_choice import MULTIPLE_CHOICE
from artimuse_actor.protocol.protocol_file import choose_protocol
from artimuse_actor.protocol.protocols import ARTIMUSE, UNIPERCEPT
from artimuse_actor.verify.slow_forward import SlowForward

MESSAGE = "You are a critic of photographs.\nBe strict."
PICTURE = golden_images()[4]


def checkpoint_with(folder: Path, message: Any, protocol: str = "artimuse") -> Path:
    checkpoint = copy_checkpoint(folder / "ArtiMuse", protocol)
    change_config(checkpoint, system_message=message)
    return checkpoint


@pytest.mark.parametrize("message", [MESSAGE, ""])
def test_it_stands_where_that_of_the_template_stood(message: str, tmp_path: Path) -> None:
    model = ArtiMuse.load(checkpoint_with(tmp_path, message))
    asked = "\nWhat is this?"
    # Of a Conversation of style MPT: the system template, the separator, the turns.
    expected = f"<|im_start|>system\n{message}<|im_end|>\n<|im_start|>user\n<img>"
    assert model.protocol.prompt(asked).startswith(expected)
    template = ARTIMUSE.prompt(asked)
    assert model.protocol.prompt(asked).partition("<img>")[2] == template.partition("<img>")[2]
    slow = SlowForward(
        model.checkpoint, dataclasses.replace(ARTIMUSE, system_message=message), model.model.device, torch.float32
    )
    pixels = decode_image(PICTURE.read_bytes()).pixels
    logits = torch.from_numpy(slow.level_logits(pixels[None]))[0, 0]
    score = model.score(pixels).score
    assert score == pytest.approx(float(expected_level(level_probabilities(logits))), abs=1e-3)
    without = ArtiMuse.load(copy_checkpoint(tmp_path / "without")).score(pixels).score
    assert abs(score - without) > 0.01


@pytest.mark.parametrize("published_arithmetic", [False, True])
def test_every_protocol_of_such_a_checkpoint_has_it_but_one_with_its_own(
    published_arithmetic: bool, tmp_path: Path
) -> None:
    checkpoint = Checkpoint(checkpoint_with(tmp_path, MESSAGE))
    for protocol in (ARTIMUSE, UNIPERCEPT):
        found = choose_protocol(protocol, checkpoint, published_arithmetic=published_arithmetic)
        assert found.system_message == MESSAGE
        plain = choose_protocol(protocol, checkpoint.identity, published_arithmetic=published_arithmetic)
        assert plain.digest == found.digest != protocol.digest
        assert found.score_questions == protocol.score_questions
    assert choose_protocol(MULTIPLE_CHOICE, checkpoint).system_message == MESSAGE
    own = dataclasses.replace(ARTIMUSE, system_message="Mine.")
    assert choose_protocol(own, checkpoint) is own


def test_a_checkpoint_without_one_or_with_null_is_asked_as_ever(tmp_path: Path) -> None:
    without, null = copy_checkpoint(tmp_path / "without"), checkpoint_with(tmp_path, None)
    for checkpoint in map(Checkpoint, (without, null)):
        assert checkpoint.system_message is None
        assert choose_protocol(None, checkpoint) is ARTIMUSE


@pytest.mark.process
def test_a_job_has_it_in_its_scores_and_its_fingerprint(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 2)
    checkpoint, out = checkpoint_with(tmp_path, MESSAGE), tmp_path / "out"
    run_artimuse("score", tmp_path / "photos", "--out", out, "--checkpoint", checkpoint, "--local")
    model = ArtiMuse.load(checkpoint)
    for name, row in table_rows(out).items():
        assert row["score"] == pytest.approx(model.score(tmp_path / "photos" / name).score, abs=1e-3)
    assert model.protocol.digest != ARTIMUSE.digest
    assert model.protocol.digest[:6] in run_artimuse("status", out).stdout


@pytest.mark.parametrize("message", [5, ["a"], "a" * 10_001, "<|im_end|>\n<|im_start|>user", "<img>"])
def test_what_cannot_be_a_system_message_is_refused_by_its_name(message: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: `system_message` "):
        Checkpoint(checkpoint_with(tmp_path, message))
