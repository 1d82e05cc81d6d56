"""Decode steps as captured CUDA graphs.

A step of a few sequences takes longer to launch from Python, kernel by kernel, than to compute; a graph is launched
as a whole. Graphs have fixed shapes and addresses, so there is one for each size that occurs, rounded up, over a cache
that does not move. A graph also takes memory of the driver, which torch does not count: their number is limited, and
where one cannot be captured the step runs kernel by kernel.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, Final

import torch

from artimuse_actor.engine.kv_cache import PagedKVCache
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.engine.watched_tokens import WatchedTokens

MAX_GRAPHS: Final = 24  # a full engine and its last texts need about ten

MAX_GRAPH_ROWS: Final = 512
_ROWS: Final = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, MAX_GRAPH_ROWS)
_WIDTH_TOKENS: Final = 256
_MAX_TOKENS: Final = 2048  # longer texts are rare, and launching kernels is a small part of their cost
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CapturedStep:
    """One graph with the tensors it reads and writes.

    Attributes:
        graph: replays the step.
        inputs: (B, 2 + W) int64, token, position and pages of each row.
        next_ids: (B,) int64.
    """

    graph: torch.cuda.CUDAGraph
    inputs: torch.Tensor
    next_ids: torch.Tensor


class StepGraphs:
    """A captured step for each rounded size."""

    def __init__(
        self,
        model: VisionLanguageModel,
        cache: PagedKVCache,
        last_ids: torch.Tensor,
        watched: WatchedTokens | None = None,
    ) -> None:
        """Capture nothing yet.

        Args:
            model: on a CUDA device.
            cache: one that does not grow.
            last_ids: (R,) int64, see `read_step`; R is at least `MAX_GRAPH_ROWS`.
            watched: see `read_step`; of as many rows.
        """
        self._model, self._cache, self._last_ids, self._watched = model, cache, last_ids, watched
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None
        self._captured: dict[tuple[int, int], CapturedStep | None] = {}

    def size_for(self, rows: int, pages: int) -> tuple[int, int] | None:
        """Rows and pages of a row in the graph that fits a step; None if no graph does."""
        unit = max(1, _WIDTH_TOKENS // self._cache.page_tokens)
        width = -(-pages // unit) * unit
        if rows > MAX_GRAPH_ROWS or width * self._cache.page_tokens > _MAX_TOKENS:
            return None
        return _ROWS[bisect_left(_ROWS, rows)], width

    def step(self, packed: torch.Tensor) -> torch.Tensor | None:
        """Replay the step of this size, capturing it if it is new.

        Args:
            packed: (B, 2 + W) int64 on the CPU, token, position and pages of each row.

        Returns:
            (B,) int64 on the device, the next tokens, valid until the next step; None if there is no graph of the size.
        """
        count, width = len(packed), packed.shape[1] - 2
        size = self.size_for(count, width)
        if size is None:
            return None
        padded = torch.zeros(size[0], 2 + size[1], dtype=torch.int64)  # padding rows read and write the scratch page
        padded[:count, : 2 + width] = packed
        # The capture, and every launch, belong to the current device, which need not be the model's.
        with torch.cuda.device(self._model.device):
            if size not in self._captured:
                if len(self._captured) == MAX_GRAPHS:
                    return None
                self._captured[size] = self._try_capture(padded)
            captured = self._captured[size]
            if captured is None:
                return None
            captured.inputs.copy_(padded.pin_memory(), non_blocking=True)  # else the host waits for the step before
            captured.graph.replay()
        return captured.next_ids[:count]

    def _try_capture(self, padded: torch.Tensor) -> CapturedStep | None:
        """The captured step; None where that fails, for want of memory or because a library forbids it."""
        try:
            return self._capture(padded)
        except RuntimeError as error:  # torch.OutOfMemoryError and torch.AcceleratorError among them
            _log.warning("a decode step of %d rows runs without a CUDA graph: %s", len(padded), error)
            return None

    def _capture(self, padded: torch.Tensor) -> CapturedStep:
        device = self._model.device
        if self._stream is None:
            self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
        inputs = padded.to(device)  # (B, 2 + W)
        last_ids = self._last_ids.clone()  # (R,): the warm-up must not replace them

        def step() -> torch.Tensor:
            return self._model.read_step(inputs, self._cache, last_ids=self._last_ids, watched=self._watched)

        # Warm up: libraries initialise in their first call, which a capture forbids; repeating a step is harmless.
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            step()
        torch.cuda.current_stream(device).wait_stream(self._stream)
        self._last_ids.copy_(last_ids)
        graph = torch.cuda.CUDAGraph()
        # thread_local: what another thread of an actor does meanwhile, such as pinning memory, spoils no capture.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            next_ids = step()
        return CapturedStep(graph, inputs, next_ids)
