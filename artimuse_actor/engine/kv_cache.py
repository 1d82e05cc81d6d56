"""Keys and values of the tokens read so far: one block for prompts of equal length, pages for texts of any length.

Shapes: B prompts or rows, G key-value heads, D features of a head, P tokens in a block, S tokens of a page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

SCRATCH_PAGE: Final = 0
"""Owned by no sequence: padding rows of a batch read and write here."""

_MIN_GROWTH_PAGES: Final = 32
_CLEARED_AT_ONCE: Final = 64


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
    pages of their common prefix.

    Attributes:
        page_tokens: S.
        pages: number of pages, free ones and the scratch page included.
        keys: (pages, S, G, D) for each layer; replaced by larger tensors when the cache grows.
        values: the same.
        storage_changes: how often one of these tensors was replaced, for callers that keep their addresses.
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
    ) -> None:
        """Start with only the scratch page."""
        self.page_tokens = page_tokens
        self.pages = 1
        shape = (1, page_tokens, kv_heads, head_dim)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)]
        self.storage_changes = 0
        self._clean: list[int] = []
        self._used: list[int] = []

    @property
    def free_pages(self) -> int:
        """Number of pages that `allocate` can hand out without growing."""
        return len(self._clean) + len(self._used)

    def allocate(self, count: int) -> list[int]:
        """Take pages of zeros; if too few are free, grow by a quarter, or by the number needed if memory is short.

        Zeros, because 0 × NaN is NaN: a masked slot must not hold another image's NaN.

        Raises:
            torch.OutOfMemoryError: the device has no room for them; nothing was taken.
        """
        missing = count - self.free_pages
        if missing > 0:
            try:
                self.grow(max(missing, self.pages // 4, _MIN_GROWTH_PAGES))
            except torch.OutOfMemoryError:
                self.grow(missing)
        if count > len(self._clean):
            self._clear(max(count - len(self._clean), _CLEARED_AT_ONCE))
        return [self._clean.pop() for _ in range(count)]

    def release(self, pages: Iterable[int]) -> None:
        """Give pages back."""
        self._used += pages

    @torch.inference_mode()
    def _clear(self, count: int) -> None:
        """Fill some of the used pages with zeros; many pages at once, since each layer takes a call of its own."""
        pages, self._used = self._used[:count], self._used[count:]
        numbers = torch.tensor(pages, device=self.keys[0].device)
        for tensor in (*self.keys, *self.values):
            tensor.index_fill_(0, numbers, 0)
        self._clean += pages

    def grow(self, count: int) -> None:
        """Add free pages.

        Raises:
            torch.OutOfMemoryError: the device has no room for them; the cache's content is unchanged.
        """
        pages = self.pages + count
        for tensors in (self.keys, self.values):
            # One tensor at a time, so that at most one layer exists twice.
            for layer, tensor in enumerate(tensors):
                if len(tensor) < pages:  # an earlier attempt that failed half way may have enlarged it
                    tensors[layer] = tensor.new_zeros(pages, *tensor.shape[1:])
                    tensors[layer][: len(tensor)] = tensor
                    self.storage_changes += 1
        self._clean += range(pages - 1, self.pages - 1, -1)
        self.pages = pages

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

    def write_prefix(self, prefix: KVCache, shared: torch.Tensor, own: torch.Tensor) -> None:
        """Store the prefix that the sequences about each of B images share.

        Args:
            prefix: P tokens.
            shared: (B, P // S) int64, pages of an image, for all its sequences.
            own: (B, K) int64, the next page of each of its K sequences; each begins with the rest of the prefix.
        """
        whole = shared.shape[1] * self.page_tokens
        rest = prefix.length - whole
        for pool, block in self._pools_with(prefix):
            tokens = block.transpose(1, 2)  # (B, P, G, D)
            pool[shared] = tokens[:, :whole].unflatten(1, (shared.shape[1], self.page_tokens))
            pool[own, :rest] = tokens[:, None, whole:].expand(-1, own.shape[1], -1, -1, -1)

    def _pools_with(self, prefix: KVCache) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        for layer, (keys, values) in enumerate(prefix.layers):
            yield self.keys[layer], keys
            yield self.values[layer], values


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


@dataclass(frozen=True)
class StepRows:
    """Read and write positions of B rows in one decode step.

    Attributes:
        positions: (B,) int64, the position of the new token in its prompt and text, counted from 0.
        pages: (B,) int64, the page it is written to.
        offsets: (B,) int64, the slot in that page.
        table: (B, W) int64, the pages of each row in order, padded with the scratch page.
        groups: every row, in exactly one group.
    """

    positions: torch.Tensor
    pages: torch.Tensor
    offsets: torch.Tensor
    table: torch.Tensor
    groups: tuple[PageGroup, ...]

    @classmethod
    def of(
        cls,
        positions: torch.Tensor,
        table: torch.Tensor,
        cache: PagedKVCache,
        groups: Sequence[tuple[Sequence[int], int]] = (),
    ) -> StepRows:
        """Derive the other attributes from the rows' positions and pages.

        Args:
            positions: as above.
            table: as above.
            cache: the cache that owns the pages.
            groups: for each group its rows and the page count of the longest; if empty, all rows are one group.
        """
        pages = table.gather(1, (positions // cache.page_tokens).unsqueeze(1)).squeeze(1)
        made = []
        if len(groups) < 2:
            made.append(PageGroup(None, table, _mask(positions, table, cache)))
        else:
            for numbers, width in groups:
                rows = torch.tensor(numbers, device=table.device)
                part = table[rows, :width]
                made.append(PageGroup(rows, part, _mask(positions[rows], part, cache)))
        return cls(positions, pages, positions % cache.page_tokens, table, tuple(made))


def _mask(positions: torch.Tensor, table: torch.Tensor, cache: PagedKVCache) -> torch.Tensor:
    tokens = torch.arange(table.shape[1] * cache.page_tokens, device=table.device)
    mask = torch.zeros(len(positions), len(tokens), dtype=cache.keys[0].dtype, device=table.device)
    return mask.masked_fill_(tokens > positions.unsqueeze(1), -torch.inf)[:, None, None, :]
