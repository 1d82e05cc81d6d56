"""A text engine of the size that a device has memory for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from artimuse_actor.checkpoint.network_config import NetworkConfig, precision_name
from artimuse_actor.checkpoint.network_memory import expanded_bytes
from artimuse_actor.engine.device import dtype_name
from artimuse_actor.engine.device_memory import memory_errors
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.engine.quantised import kind_of
from artimuse_actor.engine.text_budget import TextPrompts, text_budget
from artimuse_actor.engine.text_engine import TextEngine
from artimuse_actor.errors import RunError
from artimuse_actor.protocol.prompts import SplitPrompts, split_tails
from artimuse_actor.protocol.protocols import IMAGE_TOKENS, Rounding


def sized_text_engine(
    model: VisionLanguageModel,
    config: NetworkConfig,
    prompts: SplitPrompts,
    *,
    level_ids: torch.Tensor,
    score_questions: int,
    stop_id: int,
    max_new_tokens: int,
    batch_size: int,
    sequences: int | None = None,
    watched_ids: Sequence[int] = (),
    rounding: Rounding = "none",
) -> TextEngine:
    """A text engine with as many sequences in flight, and as large a cache, as there is memory for.

    Args:
        model: the network, on its device.
        config: its sizes.
        prompts: as of `TextEngine`.
        level_ids: as of `TextEngine`.
        score_questions: as of `TextEngine`.
        stop_id: as of `TextEngine`.
        max_new_tokens: as of `TextEngine`.
        batch_size: images of a prefill, at most.
        sequences: in flight; None for as many as fit.
        watched_ids: as of `TextEngine`.
        rounding: as of `TextEngine`.

    Raises:
        RunError: not even one text fits.
    """
    shared, tails = split_tails(prompts.tails[score_questions:])
    lengths = TextPrompts(
        prefix=len(prompts.head) + IMAGE_TOKENS + len(prompts.shared) + len(shared),
        longest=max(map(len, tails)),
        count=len(tails),
        max_new_tokens=max_new_tokens,
        watched=bool(watched_ids),
    )
    budget = text_budget(
        config,
        lengths,
        device=model.device,
        dtype=model.dtype,
        kind=model.pages,
        batch_size=batch_size,
        sequences=sequences,
        reserved=expanded_bytes(config, precision_name(dtype_name(model.dtype), kind_of(model.network))),
    )
    try:
        with memory_errors():
            return TextEngine(
                model,
                prompts,
                level_ids=level_ids,
                score_questions=score_questions,
                stop_id=stop_id,
                max_new_tokens=max_new_tokens,
                budget=budget,
                watched_ids=watched_ids,
                rounding=rounding,
            )
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"Texts do not fit into the free memory of {model.device}. "
            "Stop what else runs there, or choose another --device."
        ) from error
