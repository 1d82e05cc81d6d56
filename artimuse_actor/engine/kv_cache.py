"""Keys and values of the tokens read so far: one block for prompts of equal length, pages for texts of any length.

Shapes: B prompts or rows, G key-value heads, D features of a head, P tokens in a block, S tokens of a page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from artimuse_actor.engine.late_read import to_device

SCRATCH_PAGE: Final = 0
"""Owned by no sequence: padding rows of a batch read and write here."""

_MIN_GROWTH_PAGES: Final = 32
_CLEARED_AT_ONCE: Final = 64


class OutOfPagesError(Exception):
    """A cache has too few free pages and cannot grow; nothing was taken."""


@dataclass(frozen=True)
class KVCache:
    """A pair of (B, G, P, D) for each layer; B may be 1, shared by all prompts."""

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @property
    def length(self) -> int:
        """P: tokens in the cache."""
        return self.layers[0][0].shape[2] if self.layers else 0


EMPTY_CACHE: Final = KVCache(())


class PagedKVCache:
    """Pages of S tokens that sequences take when they need one and give back when they end.

    So memory follows the tokens generated, not the longest possible text, and sequences about one image share the
    pages of their common prefix. Either all pages are one allocation, whose addresses stay, or the cache grows.

    Attributes:
        page_tokens: S.
        pages: number of pages, free ones and the scratch page included.
        grows: whether `allocate` enlarges it.
        dtype: of keys and values.
        keys: (pages, S, G, D) for each layer; replaced by larger tensors when the cache grows.
        values: the same.
    """

    def __init__(
        self,
        *,
        layers: int,
        kv_heads: int,
        head_dim: int,
        page_tokens: int,
        device: torch.device,
        dtype: torch.dtype,
        pages: int | None = None,
        frugal: bool = False,
    ) -> None:
        """Allocate all pages, or only the scratch page.

        Args:
            layers: of the network.
            kv_heads: G.
            head_dim: D.
            page_tokens: S.
            device: where.
            dtype: of keys and values.
            pages: how many, the scratch page included; None starts with that one and grows.
            frugal: grow by what is needed, and no more.

        Raises:
            torch.OutOfMemoryError: the device has no room for them.
        """
        self.page_tokens, self.dtype = page_tokens, dtype
        self.grows = pages is None
        self.pages = pages or 1
        self._frugal = frugal
        # One tensor for all layers, or one for each, so that at most one layer exists twice while the cache grows.
        count, each = (2 * layers, 1) if self.grows else (1, 2 * layers)
        shape = (each, self.pages, page_tokens, kv_heads, head_dim)
        self._blocks = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(count)]
        self._point_at_blocks()
        self._clean = list(range(self.pages - 1, SCRATCH_PAGE, -1))
        self._used: list[int] = []

    @property
    def free_pages(self) -> int:
        """Number of pages that `allocate` can hand out without growing."""
        return len(self._clean) + len(self._used)

    def allocate(self, count: int) -> list[int]:
        """Take pages of zeros; if too few are free, grow by a quarter, or by the number needed if memory is short.

        Zeros, because 0 × NaN is NaN: a masked slot must not hold another image's NaN.

        Raises:
            OutOfPagesError: there are not so many, and no memory for more.
        """
        missing = count - self.free_pages
        if missing > 0:
            self._extend(missing)
        if count > len(self._clean):
            self._clear(max(count - len(self._clean), _CLEARED_AT_ONCE))
        return [self._clean.pop() for _ in range(count)]

    def allocate_most(self, count: int, each: int = 1) -> list[list[int]]:
        """Take `each` pages for as many of `count` holders as there is room for."""
        while count > 0:
            try:
                pages = self.allocate(count * each)
            except OutOfPagesError:
                count = count - 1 if self.grows else self.free_pages // each
            else:
                return [pages[start : start + each] for start in range(0, len(pages), each)]
        return []

    def release(self, pages: Iterable[int]) -> None:
        """Give pages back."""
        self._used += pages

    @torch.inference_mode()
    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy pages onto others."""
        to, of = to_device(torch.tensor([targets, sources]), self._blocks[0].device)  # (K,) each
        for block in self._blocks:
            block[:, to] = block[:, of]

    def slots(self, positions: torch.Tensor, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The page and the slot in it, (B,) int64 each, of (B,) positions in rows with (B, W) pages."""
        pages = table.gather(1, (positions // self.page_tokens).unsqueeze(1)).squeeze(1)  # (B,)
        return pages, positions % self.page_tokens

    def write(
        self, layer: int, pages: torch.Tensor, offsets: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Write one token per row into its page.

        Args:
            layer: index of the layer.
            pages: (B,) int64.
            offsets: (B,) int64, slot within the page.
            keys: (B, G, D).
            values: (B, G, D).
        """
        self.keys[layer].index_put_((pages, offsets), keys)
        self.values[layer].index_put_((pages, offsets), values)

    def write_prefix(self, prefix: KVCache, shared: torch.Tensor, stems: torch.Tensor) -> None:
        """Store the prefix that the sequences about each of B images share.

        Args:
            prefix: P tokens.
            shared: (B, P // S) int64, the whole pages of an image.
            stems: (B,) int64, the page of each image with the rest of the prefix, for its sequences to copy.
        """
        whole = shared.shape[1] * self.page_tokens
        rest = prefix.length - whole
        for pool, block in self._pools_with(prefix):
            tokens = block.transpose(1, 2)  # (B, P, G, D)
            pool[shared] = tokens[:, :whole].unflatten(1, (shared.shape[1], self.page_tokens))
            pool[stems, :rest] = tokens[:, whole:]

    def _extend(self, missing: int) -> None:
        generous = max(missing, self.pages // 4, _MIN_GROWTH_PAGES)
        for count in () if not self.grows else (missing,) if self._frugal else (generous, missing):
            try:
                return self.grow(count)
            except torch.OutOfMemoryError:
                continue
        raise OutOfPagesError(f"{missing} more pages are needed than the {self.pages} there are")

    @torch.inference_mode()
    def _clear(self, count: int) -> None:
        """Fill some of the used pages with zeros; many pages at once, since each tensor takes a call of its own."""
        pages, self._used = self._used[:count], self._used[count:]
        numbers = to_device(torch.tensor(pages), self._blocks[0].device)  # (K,)
        for block in self._blocks:
            block.index_fill_(1, numbers, 0)
        self._clean += pages

    def grow(self, count: int) -> None:
        """Add free pages.

        Raises:
            torch.OutOfMemoryError: the device has no room for them; the cache's content is unchanged.
        """
        pages = self.pages + count
        for number, block in enumerate(self._blocks):
            if block.shape[1] < pages:  # an earlier attempt that failed half way may have enlarged it
                self._blocks[number] = block.new_zeros(1, pages, *block.shape[2:])
                self._blocks[number][:, : block.shape[1]] = block
                self._point_at_blocks()  # at once, so that the old tensor goes
        self._clean += range(pages - 1, self.pages - 1, -1)
        self.pages = pages

    def _point_at_blocks(self) -> None:
        tensors = [tensor for block in self._blocks for tensor in block]  # 2L times (pages, S, G, D)
        layers = len(tensors) // 2
        self.keys, self.values = tensors[:layers], tensors[layers:]

    def _pools_with(self, prefix: KVCache) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        for layer, (keys, values) in enumerate(prefix.layers):
            yield self.keys[layer], keys
            yield self.values[layer], values
