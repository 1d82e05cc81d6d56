"""Weights of 8 and 4 bits: how near they are, what they take, and what they do to scores and texts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.golden import golden_checkpoint, golden_images
from support.score_job import run_artimuse
from torch import nn

from artimuse_actor import ArtiMuse
from artimuse_actor.checkpoint.checkpoint import Checkpoint
from artimuse_actor.checkpoint.network_config import QUANTIZATIONS, precision_name
from artimuse_actor.checkpoint.network_memory import expanded_bytes, weight_bytes
from artimuse_actor.engine import quantised
from artimuse_actor.engine.quantised import QuantisedLinear
from artimuse_actor.engine.text_budget import TextPrompts, step_bytes
from artimuse_actor.errors import UsageError
from artimuse_actor.images.options import Pixels
from artimuse_actor.protocol.protocols import ARTIMUSE
from artimuse_actor.verify.golden import golden_pixels
from artimuse_actor.verify.quantised_checks import quantised_finding
from bench.engine.fake_cuda import fake_cuda, fake_model
from bench.engine.fake_kernels import FAKE_PAGES
from bench.engine.fake_passes import decode_step
from bench.engine.random_network import FULL, with_layers
from jobs.commands.verify import _drawn_pictures
from jobs.demo.run import CHECKPOINT

CPU = torch.device("cpu")
ERRORS = {"int8": 0.012, "fp8": 0.04, "fp8-products": 0.055, "nf4": 0.12}
"""Of a product of normally distributed numbers, relative to its size."""


@pytest.fixture(scope="module")
def demo_pictures() -> Pixels:
    """(12, 448, 448, 3) uint8: pictures that the demo's checkpoint can rank."""
    pixels: Pixels = _drawn_pictures(12)
    return pixels


def _quantised(weight: torch.Tensor, kind: str, bias: bool = False) -> tuple[nn.Linear, QuantisedLinear]:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
    linear.weight.data.copy_(weight)
    layer = QuantisedLinear(linear, kind)
    layer.store(weight)
    return linear, layer


@pytest.mark.parametrize("kind", QUANTIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_product_is_as_near_as_its_bits_allow(kind: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 192, generator=generator) * torch.logspace(-3, 1, 96).unsqueeze(1)
    linear, layer = _quantised(weight, kind, bias=True)
    hidden = torch.randn(5, 7, 192, generator=generator)
    expected = linear(hidden)
    found = layer.to(dtype=dtype)(hidden.to(dtype)) if dtype == torch.float32 else _in(dtype, layer, hidden)
    apart = (found.float() - expected).norm(dim=(0, 1)) / (expected - linear.bias).norm(dim=(0, 1))  # (96,)
    assert apart.max() < 2 * ERRORS[kind] + (0.02 if dtype == torch.bfloat16 else 0)
    assert apart.mean() > ERRORS[kind] / 10  # it is quantised


@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_a_product_overflows_in_float16_only_where_it_would_with_all_bits(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    linear, layer = _quantised(0.02 * torch.randn(64, 3584, generator=generator), kind)
    hidden = torch.randn(8, 3584, generator=generator)
    hidden *= 20_000 / linear(hidden).abs().max()
    with torch.inference_mode():
        found, expected = layer(hidden.half()).float(), linear(hidden)
    apart = (found - expected).norm() / expected.norm()
    assert apart < 2 * ERRORS[kind]


def _in(dtype: torch.dtype, layer: QuantisedLinear, hidden: torch.Tensor) -> torch.Tensor:
    layer.bias = nn.Parameter(layer.bias.to(dtype))
    found: torch.Tensor = layer(hidden.to(dtype))
    return found


@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_zeros_and_the_largest_weight_of_each_scale_are_exact(kind: str) -> None:
    weight = torch.zeros(2, 128)
    weight[0, 3], weight[1, 70] = -2.5, 0.75
    _, layer = _quantised(weight, kind)
    torch.testing.assert_close(layer(torch.eye(128)).T, weight)


@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_a_weight_is_quantised_the_same_some_of_it_at_a_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(130, 64, generator=torch.Generator().manual_seed(0))
    _, whole = _quantised(weight, kind)
    monkeypatch.setattr(quantised, "_AT_ONCE", 1)
    _, layer = _quantised(weight, kind)
    assert torch.equal(layer.stored.view(torch.uint8), whole.stored.view(torch.uint8))
    assert torch.equal(layer.scale, whole.scale)


@pytest.mark.parametrize(("kind", "share"), [("int8", 0.25), ("fp8", 0.25), ("fp8-products", 0.25), ("nf4", 0.125)])
def test_a_weight_takes_as_few_bytes_as_it_says(kind: str, share: float) -> None:
    _, layer = _quantised(torch.randn(64, 256), kind)
    assert layer.stored.nbytes == share * 4 * 64 * 256


@pytest.mark.parametrize("quantize", [None, *QUANTIZATIONS])
def test_the_memory_that_is_asked_for_is_the_memory_that_is_taken(quantize: str | None) -> None:
    checkpoint = Checkpoint(golden_checkpoint("artimuse"))
    model = ArtiMuse.load(checkpoint, device="cpu", quantize=quantize)
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in model.model.network.state_dict().values()}
    precision = precision_name("float32", quantize)
    assert weight_bytes(checkpoint.shapes, precision) == pytest.approx(sum(tensors.values()), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "points", "srcc"),
    [("int8", 0.3, 0.99), ("fp8", 1.0, 0.97), ("fp8-products", 2.0, 0.95), ("nf4", 3.0, 0.95)],
)
def test_scores_drift_and_keep_their_order(kind: str, points: float, srcc: float, demo_pictures: Pixels) -> None:
    found = quantised_finding(Checkpoint(CHECKPOINT), ARTIMUSE, CPU, torch.float32, kind, demo_pictures)
    assert found.precision == f"float32/{kind}"
    assert found.points is not None
    assert 0 < found.points < points
    assert found.srcc is not None
    assert found.srcc > srcc
    assert found.verdict == f"drift {found.points:.2f} points, SRCC {found.srcc:.4f}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_batches_and_texts_are_as_with_all_bits(kind: str) -> None:
    model = ArtiMuse.load(golden_checkpoint("artimuse"), device="cpu", quantize=kind)
    pixels = golden_pixels()[:3]
    model.batch_size = 3
    together = model.score_pixels(pixels).score
    model.batch_size = 1
    np.testing.assert_allclose(model.score_pixels(pixels).score, together, atol=1e-3)
    two = ["Composition & Design", "Technical Execution"]
    described = model.describe(list(pixels[:2]), attributes=two, max_new_tokens=6)
    alone = [model.describe(image, attributes=two, max_new_tokens=6, sequences=1).texts for image in pixels[:2]]
    assert [one.texts for one in described] == alone


def test_the_commands_take_it() -> None:
    picture = golden_images()[0]
    options: tuple[Any, ...] = ("--checkpoint", CHECKPOINT, "--protocol", "artimuse", "--device", "cpu", "--json")
    scores = [
        json.loads(run_artimuse("image", picture, *options, *more).stdout) for more in ((), ("--quantize", "nf4"))
    ]
    assert scores[0] != scores[1]


def test_other_words_are_refused() -> None:
    assert precision_name("bfloat16", "nf4") == "bfloat16/nf4"
    with pytest.raises(UsageError, match="--quantize takes int8, fp8, fp8-products, nf4, not 'int4'"):
        ArtiMuse.load(golden_checkpoint("artimuse"), device="cpu", quantize="int4")


@pytest.mark.parametrize("options", [{"quantize": "int4"}, {"dtype": "int8"}, {"device": "cuda:99"}])
def test_what_cannot_be_is_refused_before_a_checkpoint_is_fetched(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ArtiMuse.load("ArtiMuse", **options)


@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_the_memory_set_aside_holds_an_expanded_weight(kind: str) -> None:
    config, rows = with_layers(FULL, 1), 8
    with fake_cuda():
        pages = FAKE_PAGES["torch's kernel"]
        small = replace(config, vision=replace(config.vision, num_layers=1))
        peak = decode_step(fake_model(small, pages, quantize=kind), rows, 400).peak_bytes
    prompts = TextPrompts(prefix=311, longest=11, count=8, max_new_tokens=512)
    activations = rows * step_bytes(FULL, prompts, torch.bfloat16, pages)
    expanded = expanded_bytes(FULL, f"bfloat16/{kind}")
    assert expanded <= peak <= expanded + activations


@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_a_captured_step_copies_nothing_and_waits_for_nothing(kind: str) -> None:
    config = with_layers(FULL, 2)
    with fake_cuda():
        model = fake_model(
            replace(config, vision=replace(config.vision, num_layers=1)), FAKE_PAGES["torch's kernel"], quantize=kind
        )
        counts = decode_step(model, 8, 400)
    assert (counts.copies, counts.waits) == (0, ())
