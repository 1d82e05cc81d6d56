"""The slow forward beside the published code's logits, and on fake CUDA tensors, since no GPU has run it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.golden import golden_checkpoint

from artimuse_actor import ArtiMuse
from artimuse_actor.checkpoint.checkpoint import Checkpoint
from artimuse_actor.protocol.protocols import ARTIMUSE
from artimuse_actor.verify import slow_forward
from artimuse_actor.verify.golden import golden_answers, golden_pixels
from artimuse_actor.verify.slow_forward import SlowForward
from artimuse_actor.verify.texts import describe, regrets
from bench.engine.fake_cuda import CUDA, fake_cuda, fake_model
from bench.engine.fake_kernels import FAKE_PAGES

CHECKPOINT = Checkpoint(golden_checkpoint("artimuse"))
QUESTION = next(iter(ARTIMUSE.text_questions.values()))


@pytest.fixture(scope="module")
def slow() -> SlowForward:
    return SlowForward(CHECKPOINT, ARTIMUSE, torch.device("cpu"), torch.float32)


def test_the_slow_forward_gives_the_published_logits(slow: SlowForward) -> None:
    logits = slow.level_logits(golden_pixels()[:1])
    np.testing.assert_allclose(logits, golden_answers("artimuse").logits[:1], atol=1e-3)


def test_a_token_that_is_not_the_likeliest_is_regretted(slow: SlowForward) -> None:
    image = slow.encode(golden_pixels()[0])
    model = ArtiMuse.load(CHECKPOINT, protocol=ARTIMUSE, device="cpu")
    ((text, *_),) = describe(model, golden_pixels()[:1], max_new_tokens=3)
    chosen = list(text.token_ids)
    assert slow.regret(image, QUESTION, chosen) == 0
    assert slow.regret(image, QUESTION, [*chosen[:-1], chosen[-1] + 1]) > 0.1


@pytest.mark.slow
def test_each_text_is_judged_beside_its_own_image(slow: SlowForward) -> None:
    pixels = golden_pixels()[:2]
    answers = describe(ArtiMuse.load(CHECKPOINT, protocol=ARTIMUSE, device="cpu"), pixels, max_new_tokens=8)
    places = [(0, 1), (1, 1), (1, 0), (0, 0)]
    assert all(answers[0][question] != answers[1][question] for question in (0, 1))
    assert regrets(slow, pixels, answers, places) == [0, 0, 0, 0]
    assert min(regrets(slow, pixels, answers[::-1], places)) > 0


def _contiguous(tensor: torch.Tensor) -> torch.Tensor:
    return torch.clone(tensor, memory_format=torch.contiguous_format)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_tensor_of_it_is_on_the_device(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    image = golden_pixels()[0]
    monkeypatch.setattr(torch.Tensor, "contiguous", _contiguous)  # which this build can dispatch
    with fake_cuda():
        network = fake_model(CHECKPOINT.config, FAKE_PAGES["torch's kernel"], dtype).network
        monkeypatch.setattr(slow_forward, "load_network", lambda *_, **__: network)
        slow = SlowForward(CHECKPOINT, ARTIMUSE, CUDA, dtype)
        logits = slow._level_logits(image)
        assert (logits.shape, logits.dtype, logits.device) == ((1, 101), torch.float32, CUDA)
        regrets = slow._regrets(slow.encode(image), QUESTION, [1, 2, 3])
        assert (regrets.shape, regrets.dtype, regrets.device) == ((3,), torch.float32, CUDA)
