"""What ships for `artimuse verify` is a part of what the tests have from the published code.

    PYTHONPATH=.:tests python tests/verify/test_golden_set.py

writes the answers anew, for other pictures.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

import numpy as np
import pytest
from support.golden import PROTOCOL_NAMES, golden_answers, golden_images

from artimuse_actor.images.decode import decode_image
from artimuse_actor.verify import golden

ANSWERS: Final = golden.FOLDER / "answers.json"
PICTURES: Final = golden.FOLDER / "pictures"


def _shipped() -> dict[str, Any]:
    pictures = {path.name: path for path in golden_images() if (PICTURES / path.name).exists()}
    record: dict[str, Any] = {
        "pixels": {
            name: hashlib.sha256(decode_image(path.read_bytes()).pixels.tobytes()).hexdigest()
            for name, path in pictures.items()
        }
    }
    for protocol in PROTOCOL_NAMES:
        answers = (answer for answer in golden_answers(protocol) if answer["image"] in pictures)
        record[protocol] = [
            {
                "scores": {
                    name: {"score": found["score"], "logits": found["logits"]}
                    for name, found in answer["scores"].items()
                },
                "texts": answer.get("texts", {}),
            }
            for answer in answers
        ]
    return record


def test_the_shipped_answers_are_the_published_codes() -> None:
    assert json.loads(ANSWERS.read_text()) == _shipped()
    for path in golden_images():
        copy = PICTURES / path.name
        assert not copy.exists() or copy.read_bytes() == path.read_bytes()


def test_what_ships_is_small() -> None:
    sizes = [path.stat().st_size for path in golden.FOLDER.rglob("*") if path.is_file()]
    assert sum(sizes) < 3_000_000


def test_no_picture_decodes_to_other_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert golden.changed_pictures() == []
    pixels = golden.golden_pixels().copy()
    pixels[1, 0, 0, 0] ^= 1
    monkeypatch.setattr(golden, "golden_pixels", lambda: pixels)
    assert golden.changed_pictures() == [list(_shipped()["pixels"])[1]]


def test_answers_are_in_the_order_of_the_pictures() -> None:
    for protocol in PROTOCOL_NAMES:
        answers = golden.golden_answers(protocol)
        probabilities = np.exp(answers.logits - answers.logits.max(-1, keepdims=True))
        probabilities /= probabilities.sum(-1, keepdims=True)
        np.testing.assert_allclose(probabilities @ np.arange(101), answers.scores, atol=1e-3)
        assert len(answers.scores) == len(golden.golden_pixels())
    assert len(golden.golden_answers("artimuse").texts) == len(golden.golden_pixels())
    assert golden.golden_answers("unipercept").texts == ()


if __name__ == "__main__":
    ANSWERS.write_text(json.dumps(_shipped(), ensure_ascii=False, separators=(",", ":")) + "\n")
