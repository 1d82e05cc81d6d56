"""Doubles, for fake tensors, of what a build without CUDA cannot dispatch; each checks what its kernel would refuse.

SDPA becomes the kernels that torch's own rules choose from sm_80 on (cuDNN is switched off at load), indexing its
operations, rms_norm one kernel, and paged attention one that only its arguments are known of.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.overrides import TorchFunctionMode

from artimuse_actor.engine.attention import FlashAttnPages, GatheredPages, Pages, VarlenPages
from bench.engine.kernel_checks import check_kvcache, check_varlen

PAGED_ATTENTION: Final = "attend_pages"
"""Operation that stands for a kernel that reads pages."""

HALF: Final = (torch.bfloat16, torch.float16)


class LowerRight:
    """Stands for torch's CausalBias, which cannot be made of fake tensors."""

    def __init__(self, new: int, total: int) -> None:
        assert new <= total, "a lower right causal mask would give NaN"
        self.new, self.total = new, total


def sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | LowerRight | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    assert query.device == key.device == value.device, "devices differ"
    assert query.dtype == key.dtype == value.dtype, f"dtypes differ: {query.dtype}, {key.dtype}, {value.dtype}"
    assert query.dim() == 4, "four dimensions"
    assert key.shape == value.shape, "keys and values differ in shape"
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1, "no fused kernel for this layout"
    grouped = query.shape[1] != key.shape[1]
    assert not grouped or (enable_gqa and query.shape[1] % key.shape[1] == 0), "heads differ without enable_gqa"
    half = query.dtype in HALF
    flash = torch.ops.aten._scaled_dot_product_flash_attention
    if isinstance(attn_mask, LowerRight):
        assert not is_causal, "two masks"
        assert (attn_mask.new, attn_mask.total) == (query.shape[2], key.shape[2]), "the mask is of another shape"
        assert half, "in float32 the marker would become a matrix of scores"
        out: torch.Tensor = flash(query, key, value, 0.0, True)[0]
        return out
    if attn_mask is None and half:
        assert not is_causal or query.shape[2] == key.shape[2], "is_causal is aligned to the upper left"
        out = flash(query, key, value, 0.0, is_causal)[0]
        return out
    if attn_mask is not None:
        assert attn_mask.device == query.device, "the mask is on another device"
        assert attn_mask.dtype in (torch.bool, query.dtype), f"mask is {attn_mask.dtype}, queries are {query.dtype}"
        attn_mask = attn_mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    assert not (grouped and half), "this call ends in the math kernel, which stores all scores"
    if grouped:
        repeats = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(repeats, 1) for part in (key, value))
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    out = efficient(query, key, value, attn_mask, False, 0.0, is_causal)[0]
    return out


@torch.library.custom_op("artimuse_fake::rms_norm", mutates_args=())
def _fused(hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    raise AssertionError("only fake tensors")


@_fused.register_fake
def _(hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return torch.empty_like(hidden, memory_format=torch.contiguous_format)


def rms_norm(hidden: torch.Tensor, shape: Any, weight: torch.Tensor, eps: float) -> torch.Tensor:
    assert tuple(shape) == (hidden.shape[-1],), "the norm is over another dimension"
    assert hidden.dtype == weight.dtype, "torch's fused kernel wants one dtype"
    assert hidden.device == weight.device, "devices differ"
    found: torch.Tensor = _fused(hidden, weight, eps)
    return found


@torch.library.custom_op("artimuse_fake::attend_pages", mutates_args=())
def _attend_pages(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    raise AssertionError("only fake tensors")


@_attend_pages.register_fake
def _(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(query)


def _varlen(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *offsets: Any, **options: Any) -> torch.Tensor:
    check_varlen(query, key, value, *offsets, **options)
    attended: torch.Tensor = _attend_pages(query, key, value, options["block_table"])
    return attended


def _kvcache(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, *new: Any, **options: Any) -> torch.Tensor:
    check_kvcache(q, k_cache, v_cache, *new, **options)
    attended: torch.Tensor = _attend_pages(q, k_cache, v_cache, options["block_table"])
    return attended


FAKE_PAGES: Final[dict[str, Pages]] = {
    "torch's kernel": VarlenPages.of(_varlen),
    "flash-attn": FlashAttnPages.of(_kvcache),
    "gathered": GatheredPages,
}
"""Every attention of a decode step, its kernel a double that checks its arguments."""


class Indexing(TorchFunctionMode):
    """`tensor[…]` and `copy_` by their operations: torch's own C++ asks for CUDA's device guard."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__getitem__ and args[0].is_cuda:
            place, indices = _place(*args)
            return place if indices is None else torch.ops.aten.index(place, indices)
        if func is torch.Tensor.__setitem__ and args[0].is_cuda:
            place, indices = _place(*args[:2])
            if indices is None:
                return torch.ops.aten.copy_(place, args[2])
            return torch.ops.aten.index_put_(place, indices, args[2])
        if func is torch.Tensor.copy_:
            return torch.ops.aten.copy_(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _place(tensor: torch.Tensor, index: Any) -> tuple[torch.Tensor, list[torch.Tensor | None] | None]:
    """The view that slices and numbers select, and the tensors that index it."""
    parts = list(index) if isinstance(index, tuple) else [index]
    dots = [at for at, part in enumerate(parts) if part is Ellipsis]
    if dots:
        taken = sum(part is not None and part is not Ellipsis for part in parts)
        parts[dots[0] : dots[0] + 1] = [slice(None)] * (tensor.dim() - taken)
    dim, indices = 0, dict[int, torch.Tensor]()
    for part in parts:
        if part is None:
            tensor = tensor.unsqueeze(dim)
        elif isinstance(part, int):
            tensor = tensor.select(dim, part)
            continue
        elif isinstance(part, slice):
            if part != slice(None):
                tensor = torch.ops.aten.slice(tensor, dim, part.start, part.stop, part.step or 1)
        else:
            indices[dim] = part
        dim += 1
    return tensor, [indices.get(at) for at in range(max(indices) + 1)] if indices else None
