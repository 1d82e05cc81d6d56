"""Products of 8-bit floats: the documented semantics on the CPU, the calls a card would get, and cards without them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from artimuse_actor.engine import fp8_products
from artimuse_actor.engine.fp8_products import Float8Rows, refuse_without_units
from artimuse_actor.engine.quantised import refuse_quantisation
from artimuse_actor.errors import RunError, UsageError
from bench.engine.fake_cuda import CUDA, fake_cuda, fake_model
from bench.engine.fake_kernels import FAKE_PAGES
from bench.engine.fake_passes import admission, decode_step, score_batch
from bench.engine.random_network import SMALL

CPU = torch.device("cpu")


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _scaled_mm_takes_rows_on_a_cpu() -> bool:
    rows = Float8Rows.of(_random(2, 16))
    try:
        torch._scaled_mm(rows.values, rows.values.T, rows.scale, rows.scale.T, out_dtype=torch.float32)
    except RuntimeError:  # torch 2.11 has only per-tensor scales there
        return False
    return True


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_those_of_torchs_own_function(dtype: torch.dtype) -> None:
    if not _scaled_mm_takes_rows_on_a_cpu():
        pytest.skip(f"torch {torch.__version__} has no row-wise scales on a CPU")
    hidden, weight, bias = _random(33, 256).to(dtype), _random(48, 256, seed=1), _random(48, seed=2).to(dtype)
    rows, stored = Float8Rows.of(hidden), Float8Rows.of(weight)
    expected = torch._scaled_mm(
        rows.values, stored.values.T, rows.scale, stored.scale.T, bias=bias, out_dtype=dtype, use_fast_accum=True
    )
    found = rows.times(stored.values, stored.scale.squeeze(1), bias, dtype)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=1e-5 if dtype == torch.float32 else 0.02, atol=1e-4)


def test_the_largest_feature_of_each_token_is_the_largest_float8_and_none_is_nan() -> None:
    # Beyond 464 a float8 of torch 2.11 is NaN, and one of 2.13 is 448.
    hidden = _random(64, 128) * torch.logspace(-15, 15, 64).unsqueeze(1)
    hidden[7] = 0
    rows = Float8Rows.of(hidden)
    largest = rows.values.float().abs().amax(dim=1)
    assert (largest == torch.where(torch.arange(64) == 7, 0.0, 448.0)).all()
    error = (rows.values.float() * rows.scale - hidden).norm(dim=1) / hidden.norm(dim=1).clamp(min=1e-38)
    assert error.max() < 0.04


def test_a_token_does_not_depend_on_the_others() -> None:
    hidden, weight = _random(5, 64), Float8Rows.of(_random(16, 64, seed=1))
    alone = [Float8Rows.of(row.unsqueeze(0)) for row in hidden * torch.tensor([1, 1e3, 1e-3, 7, 0.1]).unsqueeze(1)]
    together = Float8Rows.of(hidden * torch.tensor([1, 1e3, 1e-3, 7, 0.1]).unsqueeze(1))
    assert torch.equal(together.values.view(torch.uint8), torch.cat([row.values for row in alone]).view(torch.uint8))
    assert torch.equal(together.scale, torch.cat([row.scale for row in alone]))
    assert together.times(weight.values, weight.scale.squeeze(1), None, torch.float32).shape == (5, 16)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_no_number_stays_none(bad: float) -> None:
    hidden = _random(2, 32)
    hidden[1, 3] = bad
    weight = Float8Rows.of(_random(16, 32, seed=1))
    product = Float8Rows.of(hidden).times(weight.values, weight.scale.squeeze(1), None, torch.float32)
    assert product[0].isfinite().all()
    assert product[1].isnan().all()


class _ScaledMM:
    """torch's function, with the checks of its CUDA kernels on arguments."""

    def __init__(self, original: Any) -> None:
        self.original, self.shapes = original, list[tuple[int, int, int]]()

    def __call__(
        self,
        left: torch.Tensor,
        right: torch.Tensor,
        scale_a: torch.Tensor,
        scale_b: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        out_dtype: torch.dtype,
        use_fast_accum: bool,
    ) -> Any:
        (rows, inner), columns = left.shape, right.shape[1]
        assert {part.device for part in (left, right, scale_a, scale_b)} == {CUDA}
        assert left.dtype == right.dtype == torch.float8_e4m3fn
        assert left.stride() == (inner, 1), "the first operand is row-major"
        assert right.stride() == (1, inner), "the second operand is column-major"
        assert inner % 16 == columns % 16 == 0, "sizes are multiples of 16"
        assert scale_a.dtype == scale_b.dtype == torch.float32
        assert (scale_a.shape, scale_b.shape) == ((rows, 1), (1, columns))
        assert scale_a.is_contiguous()
        assert scale_b.is_contiguous()
        assert out_dtype == torch.bfloat16, "CUTLASS has rows in bfloat16 alone"
        assert bias is None or (bias.dtype == torch.bfloat16 and bias.device == CUDA and bias.is_contiguous())
        assert use_fast_accum
        self.shapes.append((rows, inner, columns))
        return self.original(left, right, scale_a, scale_b, bias, out_dtype=out_dtype, use_fast_accum=use_fast_accum)


@pytest.mark.slow
def test_a_card_gets_what_its_kernels_take_in_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = _ScaledMM(torch._scaled_mm)
    monkeypatch.setattr(torch, "_scaled_mm", checked)
    layers = SMALL.language.num_layers
    with fake_cuda():
        model = fake_model(SMALL, FAKE_PAGES["torch's kernel"], quantize="fp8-products")
        step = decode_step(model, 8, 400)
        assert (step.copies, step.waits) == (0, ())
        assert step.kernels["_scaled_mm"] == 7 * layers
        # Of the four inputs of a layer's products each is rounded once.
        assert step.kernels["linalg_vector_norm"] == 4 * layers
        assert step.bytes["_to_copy"] < 10**6, "nothing is expanded"
        assert decode_step(model, 1, 400).kernels["_scaled_mm"] == 7 * layers
        scores = score_batch(model, 2)
        assert scores.waits == ("_to_copy",)
        assert scores.flops["_scaled_mm"] > 0
        admission(model, 2)
    assert {rows for rows, _, _ in checked.shapes} >= {1, 8}


def test_a_right_operand_in_rows_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = _ScaledMM(torch._scaled_mm)

    def with_rows(left: torch.Tensor, right: torch.Tensor, *rest: Any, **named: Any) -> Any:
        return checked(left, torch.empty(right.shape, dtype=right.dtype, device=CUDA), *rest, **named)

    monkeypatch.setattr(torch, "_scaled_mm", with_rows)
    with fake_cuda(), pytest.raises(AssertionError, match="column-major"):
        decode_step(fake_model(SMALL, FAKE_PAGES["torch's kernel"], quantize="fp8-products"), 8, 400)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A card of CUDA, whose arithmetic is the CPU's."""
    about: dict[str, Any] = {"capability": (9, 0), "factor": 1.0}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA T9")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: about["capability"])
    monkeypatch.setattr(
        torch.Tensor, "to", lambda tensor, place: tensor if isinstance(place, torch.device) else _to(tensor, place)
    )
    products = iter((1.0, None))

    def in_float32(*arguments: Any) -> torch.Tensor:
        factor = next(products) or about["factor"]
        if isinstance(factor, Exception):
            raise factor
        return product(*arguments) * factor

    product = fp8_products._in_float32
    monkeypatch.setattr(fp8_products, "_in_float32", in_float32)
    return about


_to = torch.Tensor.to


def test_a_card_that_multiplies_right_passes(card: dict[str, Any]) -> None:
    refuse_without_units(CUDA, torch.bfloat16)


def test_a_card_without_units_is_refused_by_name(card: dict[str, Any]) -> None:
    card["capability"] = (8, 6)
    with pytest.raises(UsageError, match=r"NVIDIA T9 has no units for products of 8-bit floats; .* --quantize int8"):
        refuse_without_units(CUDA, torch.bfloat16)


def test_amds_cards_are_refused(card: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    with pytest.raises(UsageError, match="has no units"):
        refuse_without_units(CUDA, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_results_than_bfloat16_are_refused(card: dict[str, Any], dtype: torch.dtype) -> None:
    with pytest.raises(UsageError, match="in bfloat16 alone"):
        refuse_without_units(CUDA, dtype)


def test_a_library_that_has_no_kernel_for_the_card_is_named(card: dict[str, Any]) -> None:
    card["factor"] = RuntimeError(
        "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic`"
    )
    with pytest.raises(RunError, match=r"torch .* cannot multiply 8-bit floats on NVIDIA T9: .*NOT_SUPPORTED"):
        refuse_without_units(CUDA, torch.bfloat16)


@pytest.mark.parametrize("factor", [1.1, float("nan")])
def test_a_card_that_multiplies_wrong_is_refused(card: dict[str, Any], factor: float) -> None:
    card["factor"] = factor
    with pytest.raises(RunError, match="NVIDIA T9 multiplies 8-bit floats wrong"):
        refuse_without_units(CUDA, torch.bfloat16)


def test_apples_gpus_have_no_floats_of_8_bits() -> None:
    with pytest.raises(UsageError, match="no 8-bit floats on Apple's GPUs"):
        refuse_quantisation("fp8", torch.device("mps"), torch.float32)
    with pytest.raises(UsageError, match="The GPU of an Apple machine has no units"):
        refuse_quantisation("fp8-products", torch.device("mps"), torch.float32)
    for kind in (None, "int8", "nf4"):
        refuse_quantisation(kind, torch.device("mps"), torch.float32)
    refuse_quantisation("fp8-products", CPU, torch.float32)
