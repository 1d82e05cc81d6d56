"""Attention of the language model: over whole blocks in a prefill, and over pages in a decode step.

A decode step is one object that knows its rows and attends layer by layer: `VarlenPages` by torch's own kernel on
CUDA, `FlashAttnPages` by the package flash-attn where torch is too old for that, `GatheredPages` by SDPA on anything.

Shapes: B rows, T new tokens, P tokens read before, H query heads, G key-value heads, D features of a head, S tokens of
a page, W pages of a row at most.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias

import torch
from torch.nn import functional

from artimuse_actor.engine.kv_cache import PagedKVCache

PAGE_TOKENS: Final = 32
KERNEL_PAGE_TOKENS: Final = 256  # flash-attn's kernels, torch's copy of them too, take multiples of it

RowGroups: TypeAlias = Sequence[tuple[Sequence[int], int]]
"""For each group of rows: their indices, and the page count of the longest."""


def causal_mask(past: int, new: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor | None:
    """The mask of `new` tokens after `past` others, for `attend`; None where no mask or SDPA's own says the same."""
    if past == 0 or new == 1:
        return None
    # Not on ROCm, whose kernel once aligned this mask to the upper left (ROCm/aotriton #55): wrong without an error.
    if device.type == "cuda" and dtype != torch.float32 and not torch.version.hip:
        # Here, since it imports torch's compiler and sympy: 1.5 s that only CUDA needs.
        from torch.nn.attention.bias import causal_lower_right

        # A marker object, not a tensor: with it SDPA takes the flash kernel, grouped heads included.
        return causal_lower_right(new, past + new)
    mask = torch.full((new, past + new), -torch.inf, dtype=dtype, device=device)  # (T, P + T)
    return mask.triu(past + 1)


def attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Causal attention of the last T of P + T positions: (B, H, T, D) over (B, G, P + T, D) → (B, T, H·D)."""
    square = 1 < queries.shape[2] == keys.shape[2]
    attended = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=square, enable_gqa=True
    )  # (B, H, T, D)
    return attended.transpose(1, 2).flatten(2)


class DecodePages(ABC):
    """The attention of one decode step.

    Attributes:
        page_tokens: S of the caches it reads.
        mixes_lengths: whether rows of any length are one call; else `groups` keeps long rows from widening short ones.
        positions: (B,) int64, the position of the new token in its prompt and text, counted from 0.
    """

    page_tokens: ClassVar[int]
    mixes_lengths: ClassVar[bool]

    def __init__(
        self, cache: PagedKVCache, positions: torch.Tensor, table: torch.Tensor, groups: RowGroups = ()
    ) -> None:
        """Compute once what all layers need.

        Args:
            cache: keys and values of the tokens read before; those of the new tokens are added.
            positions: as above.
            table: (B, W) int64, the pages of each row in order, padded with the scratch page.
            groups: if empty, all rows are one group.
        """
        self.positions = positions
        self._cache, self._groups = cache, groups
        self._prepare(table)

    @abstractmethod
    def _prepare(self, table: torch.Tensor) -> None:
        """The work of `__init__`."""

    @abstractmethod
    def attend(self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Store the new (B, G, D) keys and values, then attend to all tokens of each row: (B, H, D) → (B, H·D)."""


Pages: TypeAlias = type[DecodePages]


class KernelPages(DecodePages):
    """Attention by a kernel that reads the pages where they are: CUDA in half precision.

    Attributes:
        kernel: the function.
    """

    page_tokens = KERNEL_PAGE_TOKENS
    mixes_lengths = True
    kernel: ClassVar[Callable[..., Any]]

    @classmethod
    def of(cls, kernel: Callable[..., Any]) -> Pages:
        """This attention with its kernel."""
        return type(cls.__name__, (cls,), {"kernel": staticmethod(kernel)})


class VarlenPages(KernelPages):
    """`torch.nn.attention.varlen.varlen_attn`, from torch 2.13 on."""

    def _prepare(self, table: torch.Tensor) -> None:
        rows, width = table.shape
        self._pages, self._offsets = self._cache.slots(self.positions, table)  # (B,) each
        self._span = width * self._cache.page_tokens
        self._used = (self.positions + 1).int()  # (B,)
        self._table = table.int()  # (B, W)
        self._query_starts = torch.arange(rows + 1, dtype=torch.int32, device=table.device)  # (B + 1,)
        # The kernel wants them beside the table and does not read them.
        self._key_starts = self._query_starts * self._span  # (B + 1,)

    def attend(self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """See `DecodePages.attend`."""
        cache = self._cache
        cache.write(layer, self._pages, self._offsets, keys, values)
        attended: torch.Tensor = type(self).kernel(
            queries,
            cache.keys[layer],
            cache.values[layer],
            self._query_starts,
            self._key_starts,
            1,
            self._span,
            enable_gqa=True,
            seqused_k=self._used,
            block_table=self._table,
            # Split keys are wrong with pages (Dao-AILab/flash-attention #1217), and make a row depend on the others.
            num_splits=1,
        )  # (B, H, D)
        return attended.flatten(1)


class FlashAttnPages(KernelPages):
    """`flash_attn_with_kvcache` of the package flash-attn, the extra `gpu`."""

    def _prepare(self, table: torch.Tensor) -> None:
        self._read = self.positions.int()  # (B,)
        self._table = table.int()  # (B, W)

    def attend(self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """See `DecodePages.attend`."""
        attended: torch.Tensor = type(self).kernel(
            queries.unsqueeze(1),
            self._cache.keys[layer],
            self._cache.values[layer],
            keys.unsqueeze(1),
            values.unsqueeze(1),
            cache_seqlens=self._read,
            block_table=self._table,
            causal=True,
            num_splits=1,  # a row must not depend on the others
        )  # (B, 1, H, D)
        return attended.flatten(1)


class TritonPages(DecodePages):
    """A kernel in Triton, which reads the pages of a row as far as its tokens go: CUDA and ROCm, in any precision."""

    page_tokens = PAGE_TOKENS
    mixes_lengths = True

    def _prepare(self, table: torch.Tensor) -> None:
        self._pages, self._offsets = self._cache.slots(self.positions, table)  # (B,) each
        self._table = table

    def attend(self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """See `DecodePages.attend`."""
        from artimuse_actor.engine.triton_kernels import attend_pages, launch, padded

        cache = self._cache
        cache.write(layer, self._pages, self._offsets, keys, values)
        (rows, heads, dim), kv_heads = queries.shape, keys.shape[1]
        attended = queries.new_empty(queries.shape)  # (B, H, D)
        shared = heads // kv_heads
        launch(
            attend_pages,
            (rows, kv_heads),
            attended,
            queries,
            cache.keys[layer],
            cache.values[layer],
            self._table,
            self.positions,
            dim**-0.5,
            queries.stride(0),
            self._table.stride(0),
            self.positions.stride(0),
            KV_HEADS=kv_heads,
            SHARED=shared,
            SHARED_PADDED=max(16, padded(shared)),  # a product has 16 rows at least
            DIM=dim,
            DIM_PADDED=max(16, padded(dim)),
            PAGE=cache.page_tokens,
            BLOCK=128 // queries.element_size(),  # keys and values of two blocks fit into 99 KB, what small cards have
            num_stages=2,
        )
        return attended.flatten(1)


@dataclass(frozen=True)
class PageGroup:
    """Rows of one step whose attention is computed together.

    Attributes:
        rows: (M,) int64, indices among the step's rows, or None for all of them.
        table: (M, W) int64, the pages of each in order, padded with any page.
        mask: (M, 1, 1, W · S), 0 for the tokens of a row and -inf for the rest of its pages.
    """

    rows: torch.Tensor | None
    table: torch.Tensor
    mask: torch.Tensor


class GatheredPages(DecodePages):
    """SDPA over copies of the pages: any device, any precision."""

    page_tokens = PAGE_TOKENS
    mixes_lengths = False

    def _prepare(self, table: torch.Tensor) -> None:
        self._pages, self._offsets = self._cache.slots(self.positions, table)  # (B,) each
        if len(self._groups) < 2:
            self.groups = [PageGroup(None, table, self._mask(self.positions, table))]
            return
        self.groups = []
        for numbers, width in self._groups:
            rows = torch.tensor(numbers, device=table.device)  # (M,)
            part = table[rows, :width]  # (M, W)
            self.groups.append(PageGroup(rows, part, self._mask(self.positions[rows], part)))

    def attend(self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """See `DecodePages.attend`."""
        self._cache.write(layer, self._pages, self._offsets, keys, values)
        # The H / G heads that share keys become the queries of one attention, so no key is repeated in memory.
        grouped = queries.unflatten(1, (keys.shape[1], -1))  # (B, G, H/G, D)
        if len(self.groups) == 1:
            return self._attend_group(layer, grouped, self.groups[0]).flatten(1)
        attended = torch.empty_like(grouped)  # (B, G, H/G, D)
        for group in self.groups:
            attended[group.rows] = self._attend_group(layer, grouped[group.rows], group)
        return attended.flatten(1)

    def _attend_group(self, layer: int, queries: torch.Tensor, group: PageGroup) -> torch.Tensor:
        """(M, G, H/G, D) over the pages of M rows → the same shape."""
        rows, tokens = len(queries), group.mask.shape[-1]
        keys, values = (
            pool.index_select(0, group.table.flatten()).view(rows, tokens, *pool.shape[2:]).transpose(1, 2)
            for pool in (self._cache.keys[layer], self._cache.values[layer])
        )  # (M, G, W·S, D)
        return functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=group.mask.expand(-1, -1, queries.shape[2], -1)
        )

    def _mask(self, positions: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        tokens = torch.arange(table.shape[1] * self._cache.page_tokens, device=table.device)  # (W·S,)
        # SDPA refuses a float mask of another dtype than its queries.
        mask = torch.zeros(len(positions), len(tokens), dtype=self._cache.dtype, device=table.device)  # (B, W·S)
        return mask.masked_fill_(tokens > positions.unsqueeze(1), -torch.inf)[:, None, None, :]
