"""One decode step for all sequences in flight: plain on a CPU, a captured CUDA graph on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from artimuse_actor.engine.graphs import MAX_GRAPH_ROWS, StepGraphs
from artimuse_actor.engine.kv_cache import SCRATCH_PAGE, PagedKVCache
from artimuse_actor.engine.late_read import LateRead, to_device
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.engine.watched_tokens import WatchedTokens


class DecodeSteps:
    """Decode steps over one cache.

    Attributes:
        graphs: captured steps, where there are any.
    """

    def __init__(
        self, model: VisionLanguageModel, cache: PagedKVCache, sequences: int = 0, watched_ids: Sequence[int] = ()
    ) -> None:
        """Start without a captured graph.

        Args:
            model: the network.
            cache: of the sequences.
            sequences: the most of a step that continues the one before.
            watched_ids: tokens whose probabilities as the next one each step notes, see `watched`.
        """
        self._model, self._cache = model, cache
        size = max(sequences, MAX_GRAPH_ROWS)
        self._last_ids = torch.zeros(size, dtype=torch.int64, device=model.device)  # of the step before, by row
        captures = model.device.type == "cuda" and not cache.grows
        self._watched = WatchedTokens(watched_ids, size, model.device) if watched_ids else None
        self.graphs = StepGraphs(model, cache, self._last_ids, self._watched) if captures else None

    @torch.inference_mode()
    def launch(self, token_ids: Sequence[int], positions: Sequence[int], pages: Sequence[Sequence[int]]) -> LateRead:
        """Begin to read one more token of each of B sequences.

        Args:
            token_ids: the token of each; -1 - r stands for what the step before gave its row r.
            positions: its position in the sequence, counted from 0.
            pages: the pages of each; the position lies in the last one.

        Returns:
            (B,) int64, the likeliest next token of each, on its way to the CPU.

        Raises:
            torch.OutOfMemoryError: the device has no room for so many; nothing has changed.
        """
        packed = pack(token_ids, positions, pages)  # (B, 2 + W)
        groups = [] if self._model.pages.mixes_lengths else page_groups([len(held) for held in pages])
        next_ids = self.graphs.step(packed) if self.graphs and len(groups) < 2 else None
        if next_ids is None:
            packed = to_device(packed, self._model.device)
            next_ids = self._model.read_step(packed, self._cache, groups, self._last_ids, self._watched)
        return LateRead(next_ids)

    def watched(self, rows: int) -> LateRead | None:
        """(B, K) float32, the probabilities of the watched tokens after the step launched last; None if none is."""
        return LateRead(self._watched.probabilities[:rows]) if self._watched else None


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
