"""Probabilities of a few tokens as the next one, which decode steps note beside the token that they choose."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class WatchedTokens:
    """K tokens, and their probabilities after the last step, at addresses that a captured step can write to.

    Attributes:
        probabilities: (R, K) float32 on the device, by row of the step.
    """

    def __init__(self, token_ids: Sequence[int], rows: int, device: torch.device) -> None:
        """Watch these tokens in steps of at most R rows."""
        self._ids = torch.tensor(list(token_ids), dtype=torch.int64, device=device)  # (K,)
        self.probabilities = torch.zeros(rows, len(token_ids), dtype=torch.float32, device=device)  # (R, K)

    def note(self, logits: torch.Tensor) -> None:
        """Note the probabilities under the softmax over the whole vocabulary, given (B, V) logits of any dtype."""
        probabilities = logits.softmax(dim=-1, dtype=torch.float32)  # (B, V)
        self.probabilities[: len(logits)] = probabilities.index_select(1, self._ids)
