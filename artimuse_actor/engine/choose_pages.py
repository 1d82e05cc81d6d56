"""The attention of decode steps that a device can run, tried out before it is used.

That a package is installed says nothing of its build: each kernel has to agree with `GatheredPages` first.
"""

from __future__ import annotations

import inspect
from typing import Final

import torch

from artimuse_actor.engine.attention import FlashAttnPages, GatheredPages, Pages, TritonPages, VarlenPages
from artimuse_actor.engine.kv_cache import PagedKVCache
from artimuse_actor.engine.layer_kernels import has_triton, warn_once
from artimuse_actor.errors import one_line

_AGREEMENT: Final = 0.05  # of values with a deviation of 1, in half precision


def choose_pages(device: torch.device, dtype: torch.dtype, *, heads: int, kv_heads: int, head_dim: int) -> Pages:
    """The fastest attention for decode steps that agrees with `GatheredPages` on this device.

    Args:
        device: where the network is.
        dtype: its precision.
        heads: H.
        kv_heads: G.
        head_dim: D.
    """
    *kernels, any_device = candidate_pages(device, dtype)
    for pages in kernels:
        if agrees(pages, device, dtype, heads=heads, kv_heads=kv_heads, head_dim=head_dim):
            return pages
    return any_device


def candidate_pages(device: torch.device, dtype: torch.dtype) -> tuple[Pages, ...]:
    """Attentions that a device may have, the fastest first, `GatheredPages` last; none is tried out."""
    kernels: list[Pages | None] = [TritonPages] if device.type == "cuda" and has_triton() else []
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and not torch.version.hip:
        kernels += [varlen_pages(), flash_attn_pages()]
    return *filter(None, kernels), GatheredPages


def varlen_pages() -> Pages | None:
    """`VarlenPages` if this torch has the function, and it takes pages (2.13 and later)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    takes = inspect.signature(varlen_attn).parameters
    return VarlenPages.of(varlen_attn) if {"block_table", "seqused_k", "num_splits"} <= set(takes) else None


def flash_attn_pages() -> Pages | None:
    """`FlashAttnPages` if the package can be imported; a folder of that name, or a broken build, cannot."""
    try:
        from flash_attn import flash_attn_with_kvcache
    except Exception as error:  # a build for another torch ends in an OSError, an ImportError or worse
        if not isinstance(error, ModuleNotFoundError):
            warn_once(torch.device("cuda"), f"flash-attn is installed and cannot be imported: {one_line(str(error))}")
        return None
    return FlashAttnPages.of(flash_attn_with_kvcache)


@torch.inference_mode()
def agrees(pages: Pages, device: torch.device, dtype: torch.dtype, *, heads: int, kv_heads: int, head_dim: int) -> bool:
    """True if a kernel gives what `GatheredPages` gives, for rows that end in the first, the second and a new page."""
    size = pages.page_tokens
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, generator=generator).to(dtype)

    # As a step has them, so that what is compiled here is what runs there: columns of one tensor, parts of one product.
    packed = torch.tensor([[0, 5, 1, 0, 0], [0, 2 * size - 1, 4, 2, 0], [0, 2 * size, 3, 6, 5]], device=device)
    positions, table = packed[:, 1], packed[:, 2:]  # (3,) and (3, 3)
    turned = random(3, heads + kv_heads, head_dim)
    new = *turned.split([heads, kv_heads], dim=1), random(3, heads + 2 * kv_heads, head_dim)[:, heads + kv_heads :]
    past = random(2, 7, size, kv_heads, head_dim)  # keys and values of 7 pages
    found = []
    try:
        for kind in (pages, GatheredPages):
            cache = PagedKVCache(
                layers=1,
                kv_heads=kv_heads,
                head_dim=head_dim,
                page_tokens=size,
                device=device,
                dtype=dtype,
                pages=7,
            )
            cache.keys[0].copy_(past[0])
            cache.values[0].copy_(past[1])
            found.append(kind(cache, positions, table).attend(0, *new))  # (3, H·D)
        largest = float((found[0] - found[1]).abs().max())
    except Exception as error:  # whatever a kernel raises, the other one works
        warn_once(device, f"{pages.__name__} cannot be used on {device}: {one_line(str(error))}")
        return False
    if not largest <= _AGREEMENT:  # NaN is not
        warn_once(device, f"{pages.__name__} is not used on {device}: its answers are {largest:.2g} off.")
        return False
    return True
