from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
from support.cuda_doubles import kvcache_double, varlen_double

from artimuse_actor.engine import choose_pages as choosing
from artimuse_actor.engine import layer_kernels
from artimuse_actor.engine.attention import (
    FlashAttnPages,
    GatheredPages,
    KernelPages,
    Pages,
    TritonPages,
    VarlenPages,
    attend,
    causal_mask,
)
from artimuse_actor.engine.choose_pages import agrees, choose_pages, flash_attn_pages, varlen_pages
from bench.engine.kernel_checks import check_varlen

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SIZES = {"heads": 4, "kv_heads": 2, "head_dim": 24}
DOUBLES = {"varlen": VarlenPages.of(varlen_double), "flash-attn": FlashAttnPages.of(kvcache_double)}
KERNELS: dict[str, Pages] = {"triton": TritonPages, **DOUBLES}


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_kernels, "_said", set())


@pytest.mark.parametrize("pages", DOUBLES.values(), ids=DOUBLES.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_kernel_with_the_documented_behaviour_agrees_with_gathered_pages(pages: Pages, dtype: torch.dtype) -> None:
    assert agrees(pages, CPU, dtype, **SIZES)


def test_the_pinned_torch_has_the_function_that_the_double_stands_for() -> None:
    pages = varlen_pages()
    assert pages is not None
    assert issubclass(pages, KernelPages)
    assert pages.kernel.__module__ == "torch.nn.attention.varlen"


def test_an_older_torch_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def older(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seq_q: torch.Tensor) -> None:
        """As in torch 2.11, which had no pages."""

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", older)
    assert varlen_pages() is None
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)  # an import of it fails
    assert varlen_pages() is None


def broken(mistake: str) -> Pages:
    """A kernel that answers wrongly, or not at all."""

    def kernel(query: torch.Tensor, *others: object, **options: object) -> torch.Tensor:
        if mistake == "no kernel image is available for this card":
            raise RuntimeError(f"CUDA error: {mistake}")
        right = varlen_double(query, *others, **options)  # type: ignore[arg-type]
        if mistake == "heads in another order":
            return right.flip(1)
        if mistake == "NaN":
            return right * torch.nan
        used = options["seqused_k"] - 1  # type: ignore[operator]
        return varlen_double(query, *others, **options | {"seqused_k": used})  # type: ignore[arg-type]

    return VarlenPages.of(kernel)


@pytest.mark.parametrize(
    "mistake", ["no kernel image is available for this card", "heads in another order", "NaN", "a token too few"]
)
def test_a_kernel_that_is_wrong_or_does_not_run_is_not_used(caplog: pytest.LogCaptureFixture, mistake: str) -> None:
    assert not agrees(broken(mistake), CPU, torch.bfloat16, **SIZES)
    assert "VarlenPages" in caplog.text


@pytest.mark.parametrize(
    ("device", "dtype", "rocm", "works", "chosen"),
    [
        (CUDA, torch.bfloat16, None, {"triton", "varlen"}, "triton"),
        (CUDA, torch.float32, None, {"triton", "varlen"}, "triton"),
        (CUDA, torch.bfloat16, "7.0", {"triton", "varlen"}, "triton"),
        (CUDA, torch.bfloat16, None, {"varlen", "flash-attn"}, "varlen"),
        (CUDA, torch.float16, None, {"flash-attn"}, "flash-attn"),
        (CUDA, torch.bfloat16, None, set[str](), None),
        (CUDA, torch.bfloat16, "7.0", {"varlen", "flash-attn"}, None),
        (CUDA, torch.float32, None, {"varlen", "flash-attn"}, None),
        (CPU, torch.bfloat16, None, {"triton", "varlen", "flash-attn"}, None),
        (torch.device("mps"), torch.float16, None, {"triton", "varlen", "flash-attn"}, None),
    ],
    ids=[
        "Triton's", "Triton's in float32", "Triton's on ROCm", "torch's", "the package's", "none works",
        "no kernel on ROCm", "nor in float32", "a CPU", "MPS",
    ],
)  # fmt: skip
def test_the_first_kernel_that_works_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
    device: torch.device,
    dtype: torch.dtype,
    rocm: str | None,
    works: set[str],
    chosen: str | None,
) -> None:
    monkeypatch.setattr(torch.version, "hip", rocm)
    monkeypatch.setattr(choosing, "has_triton", lambda: True)
    monkeypatch.setattr(choosing, "varlen_pages", lambda: KERNELS["varlen"])
    monkeypatch.setattr(choosing, "flash_attn_pages", lambda: KERNELS["flash-attn"])
    monkeypatch.setattr(choosing, "agrees", lambda pages, *_, **__: pages in [KERNELS[name] for name in works])
    assert choose_pages(device, dtype, **SIZES) is (KERNELS[chosen] if chosen else GatheredPages)


def test_flash_attn_is_used_only_if_it_can_be_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert flash_attn_pages() is None
    assert not caplog.records  # that it is not installed is no news
    (tmp_path / "flash_attn").mkdir()  # a folder of that name is a namespace package
    monkeypatch.syspath_prepend(tmp_path)
    assert flash_attn_pages() is None
    (tmp_path / "flash_attn" / "__init__.py").write_text("raise OSError('libcudart.so.11: cannot open')")
    sys.modules.pop("flash_attn", None)
    layer_kernels._said.clear()  # the first kind of failure was said already
    assert flash_attn_pages() is None
    assert "libcudart.so.11" in caplog.text
    module = types.ModuleType("flash_attn")
    module.flash_attn_with_kvcache = kvcache_double  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    pages = flash_attn_pages()
    assert pages is not None
    assert issubclass(pages, KernelPages)
    assert pages.kernel is kvcache_double


def test_the_causal_mask_is_a_marker_for_the_flash_kernel_on_nvidia_and_a_tensor_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch.nn.attention.bias import CausalBias  # takes a second, for the one worker that runs this test

    for past, new in ((0, 5), (7, 1)):
        assert causal_mask(past, new, CPU, torch.float32) is None
    mask = causal_mask(2, 3, CPU, torch.float32)
    assert mask is not None
    inf = -torch.inf
    assert mask.tolist() == [[0, 0, 0, inf, inf], [0, 0, 0, 0, inf], [0, 0, 0, 0, 0]]
    assert isinstance(causal_mask(2, 3, CUDA, torch.bfloat16), CausalBias)
    # On ROCm the marker was read as aligned to the upper left: wrong scores without an error (ROCm/aotriton #55).
    monkeypatch.setattr(torch.version, "hip", "7.0")
    made: list[torch.device] = []
    full = torch.full
    monkeypatch.setattr(torch, "full", lambda *a, device, **k: made.append(device) or full(*a, **k))  # type: ignore[func-returns-value]
    found = causal_mask(2, 3, CUDA, torch.bfloat16)
    assert found is not None
    assert not isinstance(found, CausalBias)
    assert found.tolist() == mask.tolist()
    assert made == [CUDA]


def test_a_prefill_after_others_sees_them_and_its_own_past() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 4, 6, 8, generator=generator), torch.randn(2, 2, 6, 8, generator=generator)
    values = torch.randn(2, 2, 6, 8, generator=generator)
    whole = attend(queries, keys, values, None)  # (2, 6, 32)
    for past in (1, 3, 5):
        part = attend(queries[:, :, past:], keys, values, causal_mask(past, 6 - past, CPU, torch.float32))
        torch.testing.assert_close(part, whole[:, past:])


def test_the_double_refuses_what_torch_refuses() -> None:
    pool = torch.zeros(3, 256, 2, 8)
    starts, used = torch.arange(3, dtype=torch.int32), torch.ones(2, dtype=torch.int32)
    right: dict[str, object] = {
        "query": torch.zeros(2, 4, 8),
        "key": pool,
        "value": pool,
        "cu_seq_q": starts,
        "cu_seq_k": starts,
        "max_q": 1,
        "max_k": 256,
        "enable_gqa": True,
        "seqused_k": used,
        "block_table": torch.zeros(2, 1, dtype=torch.int32),
        "num_splits": 1,
    }
    check_varlen(**right)  # type: ignore[arg-type]
    for wrong in (
        {"key": pool[:, :32], "value": pool[:, :32]},
        {"block_table": torch.zeros(2, 1, dtype=torch.int64)},
        {"seqused_k": used.long()},
        {"cu_seq_k": None},
        {"cu_seq_q": starts[:2]},
        {"num_splits": None},
        {"enable_gqa": False},
        {"max_k": 512},
        {"query": torch.zeros(2, 4, 8, dtype=torch.bfloat16)},
        {"block_table": torch.zeros(2, 1, dtype=torch.int32, device="meta")},
    ):
        with pytest.raises(AssertionError):
            check_varlen(**right | wrong)  # type: ignore[arg-type]
