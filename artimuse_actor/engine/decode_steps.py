"""One decode step for all sequences in flight: plain on a CPU, a captured CUDA graph on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from artimuse_actor.engine.graphs import StepGraphs
from artimuse_actor.engine.kv_cache import SCRATCH_PAGE, PagedKVCache
from artimuse_actor.engine.model import VisionLanguageModel


class DecodeSteps:
    """Decode steps over one cache."""

    def __init__(self, model: VisionLanguageModel, cache: PagedKVCache) -> None:
        """Start without a captured graph."""
        self._model, self._cache = model, cache
        self.graphs = StepGraphs(model, cache) if model.device.type == "cuda" and not cache.grows else None

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
        packed = pack(token_ids, positions, pages)  # (B, 2 + W)
        groups = [] if self._model.pages.mixes_lengths else page_groups([len(held) for held in pages])
        next_ids = self.graphs.step(packed) if self.graphs and len(groups) < 2 else None
        if next_ids is None:
            next_ids = self._model.read_step(packed.to(self._model.device), self._cache, groups)
        found: list[int] = next_ids.tolist()
        return found


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


def pack(token_ids: Sequence[int], positions: Sequence[int], pages: Sequence[Sequence[int]]) -> torch.Tensor:
    """(B, 2 + W) int64 on the CPU: token, position and pages of each row, for one copy to the device."""
    rows = zip(token_ids, positions, pages, strict=True)
    padding = [SCRATCH_PAGE] * max(map(len, pages))
    return torch.tensor([[token, position, *held, *padding[len(held) :]] for token, position, held in rows])
