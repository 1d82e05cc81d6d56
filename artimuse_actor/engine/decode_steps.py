"""One decode step for all sequences in flight: plain on a CPU, a captured CUDA graph on a GPU.

A step of a few sequences takes longer to launch from Python, kernel by kernel, than to compute; a graph is launched
as a whole. Graphs have fixed shapes and addresses, so there is one for each size that occurs, rounded up, and all are
captured again when the cache has grown.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final

import torch

from artimuse_actor.engine.kv_cache import SCRATCH_PAGE, PagedKVCache, StepRows
from artimuse_actor.engine.model import VisionLanguageModel

_GRAPH_ROWS: Final = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_GRAPH_WIDTH_TOKENS: Final = 256
_GRAPH_MAX_TOKENS: Final = 2048  # longer texts are rare, and launching kernels is a small part of their cost


class DecodeSteps:
    """Decode steps over one cache."""

    def __init__(self, model: VisionLanguageModel, cache: PagedKVCache) -> None:
        """Start without a captured graph."""
        self._model, self._cache = model, cache
        self._graphs = _Graphs(model, cache) if model.device.type == "cuda" else None

    @torch.inference_mode()
    def __call__(self, token_ids: Sequence[int], positions: Sequence[int], pages: Sequence[Sequence[int]]) -> list[int]:
        """Read one more token of each of B sequences.

        Args:
            token_ids: the token of each.
            positions: its position in the sequence, counted from 0.
            pages: the pages of each; the position lies in the last one.

        Returns:
            The likeliest next token of each.

        Raises:
            torch.OutOfMemoryError: the device has no room for so many; nothing has changed.
        """
        groups = page_groups([len(held) for held in pages])
        if self._graphs is not None and (len(groups) == 1 or self._model.flash):
            width = self._graphs.width_for(len(token_ids), max(map(len, pages)))
            if width:
                return self._graphs.step(token_ids, positions, pages, width)
        packed = _pack(token_ids, positions, pages, max(map(len, pages))).to(self._model.device)
        rows = StepRows.of(packed[:, 1], packed[:, 2:], self._cache, groups)
        hidden = self._model.decode_step(packed[:, 0], self._cache, rows)
        next_ids: list[int] = self._model.next_tokens(hidden).tolist()
        return next_ids


def page_groups(counts: Sequence[int]) -> list[tuple[list[int], int]]:
    """Group rows whose page counts differ by less than a factor of two, so that one long text does not slow all others.

    Args:
        counts: pages of each row.

    Returns:
        Rows and the largest number of pages, for each group.
    """
    groups: list[tuple[list[int], int]] = []
    for row in sorted(range(len(counts)), key=lambda row: -counts[row]):
        if not groups or 2 * counts[row] <= groups[-1][1]:
            groups.append(([], counts[row]))
        groups[-1][0].append(row)
    return groups


class _Graphs:
    """A captured step for each rounded size."""

    def __init__(self, model: VisionLanguageModel, cache: PagedKVCache) -> None:
        self._model, self._cache = model, cache
        self._storage = -1
        self._pool: Any = None
        self._captured: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]] = {}

    def width_for(self, rows: int, pages: int) -> int:
        """Pages of a row in the graph that fits this step; 0 if no graph does."""
        unit = max(1, _GRAPH_WIDTH_TOKENS // self._cache.page_tokens)
        width = -(-pages // unit) * unit
        fits = rows <= _GRAPH_ROWS[-1] and width * self._cache.page_tokens <= _GRAPH_MAX_TOKENS
        return width if fits else 0

    def step(
        self, token_ids: Sequence[int], positions: Sequence[int], pages: Sequence[Sequence[int]], width: int
    ) -> list[int]:
        if self._storage != self._cache.storage_changes:  # some or all of its tensors have moved
            self._captured.clear()
            self._pool = torch.cuda.graph_pool_handle()  # the old graphs' pool is freed with them
            self._storage = self._cache.storage_changes
        count = len(token_ids)
        rows = _GRAPH_ROWS[bisect_left(_GRAPH_ROWS, count)]
        packed = torch.zeros(rows, 2 + width, dtype=torch.int64)  # padding rows read and write the scratch page
        packed[:count] = _pack(token_ids, positions, pages, width)
        if (rows, width) not in self._captured:
            self._captured[rows, width] = self._capture(packed)
        graph, inputs, next_ids = self._captured[rows, width]
        inputs.copy_(packed)
        graph.replay()
        found: list[int] = next_ids[:count].tolist()
        return found

    def _capture(self, packed: torch.Tensor) -> tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]:
        inputs = packed.to(self._model.device)

        def step() -> torch.Tensor:
            rows = StepRows.of(inputs[:, 1], inputs[:, 2:], self._cache)
            return self._model.next_tokens(self._model.decode_step(inputs[:, 0], self._cache, rows))

        # Warm up: libraries initialise in their first call, which a capture forbids; repeating a step is harmless.
        stream = torch.cuda.Stream(self._model.device)
        stream.wait_stream(torch.cuda.current_stream(self._model.device))
        with torch.cuda.stream(stream):
            step()
        torch.cuda.current_stream(self._model.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            next_ids = step()
        return graph, inputs, next_ids


def _pack(
    token_ids: Sequence[int], positions: Sequence[int], pages: Sequence[Sequence[int]], width: int
) -> torch.Tensor:
    """(B, 2 + width) int64: token, position and pages of each row, for one copy to the device."""
    rows = zip(token_ids, positions, pages, strict=True)
    padding = [SCRATCH_PAGE] * width
    return torch.tensor([[token, position, *held, *padding[len(held) :]] for token, position, held in rows])
