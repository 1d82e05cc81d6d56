"""A user's own checkpoint on a device: the fast path against the slow one, and against itself in other batches.

Two networks are never in memory at once: the fast path answers first, then the slow one judges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from artimuse_actor.artimuse import ArtiMuse
from artimuse_actor.checkpoint.checkpoint import Checkpoint
from artimuse_actor.engine.device import check_memory, dtype_name
from artimuse_actor.engine.device_memory import memory_errors, release_memory
from artimuse_actor.engine.scoring import Scores
from artimuse_actor.errors import RunError, one_line
from artimuse_actor.protocol.protocols import Protocol
from artimuse_actor.verify.finding import Finding, largest_difference, logits_of, relative_error
from artimuse_actor.verify.golden import golden_pixels
from artimuse_actor.verify.slow_forward import SlowForward
from artimuse_actor.verify.speed import Speed, measure_speed
from artimuse_actor.verify.texts import Answers, describe, differing, regrets

_DESCRIBED: Final = 2  # pictures
_MAX_NEW_TOKENS: Final = 48


@dataclass(frozen=True)
class _FastAnswers:
    """The fast path's answers about the golden pictures.

    Attributes:
        together: scores of all pictures in one batch.
        one_by_one: scores with a batch size of 1.
        texts: texts of some pictures together; none for a protocol without text questions.
        alone: texts of the first picture, one at a time.
        speed: measured with the same model.
        attention: name of the attention of its decode steps.
    """

    together: Scores
    one_by_one: Scores
    texts: Answers
    alone: Answers
    speed: Speed
    attention: str


def own_findings(
    checkpoint: Checkpoint, protocol: Protocol, device: torch.device, dtypes: tuple[torch.dtype, ...]
) -> Iterator[Finding | Speed]:
    """Check a checkpoint in one precision after the other, and each against the first.

    Args:
        checkpoint: opened.
        protocol: its questions.
        device: where it is loaded.
        dtypes: precisions; all but the first are skipped if they do not fit into the device's memory.

    Raises:
        RunError: the first one does not fit, or its answers are NaN.
    """
    first: tuple[torch.dtype, Scores] | None = None
    for dtype in dtypes:
        precision = dtype_name(dtype)
        try:
            check_memory(checkpoint, device, dtype)
            with memory_errors():
                fast = _fast_answers(checkpoint, protocol, device, dtype)
                release_memory(device)
                yield fast.speed
                yield from _judged(checkpoint, protocol, device, dtype, fast)
                release_memory(device)
        except (RunError, torch.OutOfMemoryError) as error:
            if dtype == dtypes[0]:
                raise
            yield Finding(f"{checkpoint.name}, all checks", precision, skipped=one_line(str(error)))
            continue
        if first is None:
            first = dtype, fast.together
            continue
        coarser = max(dtype, first[0], key=lambda kind: torch.finfo(kind).eps)
        yield Finding(
            f"{precision} beside {dtype_name(first[0])}",
            dtype_name(coarser),
            fast.attention,
            points=largest_difference(fast.together.score, first[1].score),
            error=relative_error(logits_of(fast.together.distribution), logits_of(first[1].distribution)),
        )


def _fast_answers(checkpoint: Checkpoint, protocol: Protocol, device: torch.device, dtype: torch.dtype) -> _FastAnswers:
    pixels = golden_pixels()
    model = ArtiMuse.load(checkpoint, protocol=protocol, device=str(device), dtype=dtype_name(dtype))
    texts: Answers = []
    alone: Answers = []
    if protocol.text_questions:
        texts = describe(model, pixels[:_DESCRIBED], max_new_tokens=_MAX_NEW_TOKENS)
        alone = describe(model, pixels[:1], max_new_tokens=_MAX_NEW_TOKENS, sequences=1)
    speed = measure_speed(model)
    model.batch_size = len(pixels)
    together = model.score_pixels(pixels)
    model.batch_size = 1
    attention = model.model.pages.__name__
    return _FastAnswers(together, model.score_pixels(pixels), texts, alone, speed, attention)


def _judged(
    checkpoint: Checkpoint, protocol: Protocol, device: torch.device, dtype: torch.dtype, fast: _FastAnswers
) -> Iterator[Finding]:
    precision, attention, pixels = dtype_name(dtype), fast.attention, golden_pixels()
    found = logits_of(fast.together.distribution)
    yield Finding(
        f"batch 1 beside batch {len(pixels)}",
        precision,
        attention,
        points=largest_difference(fast.one_by_one.score, fast.together.score),
        error=relative_error(logits_of(fast.one_by_one.distribution), found),
    )
    slow = SlowForward(checkpoint, protocol, device, dtype)
    logits = slow.level_logits(pixels).astype(np.float64)  # (N, Q, 101)
    probabilities = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores = (probabilities / probabilities.sum(axis=-1, keepdims=True)) @ np.arange(logits.shape[-1])
    yield Finding(
        "fast scores beside the slow forward's",
        precision,
        attention,
        points=largest_difference(fast.together.score, scores),
        error=relative_error(found, logits),
    )
    if not fast.texts:
        return
    first = fast.texts[:1]
    judged = regrets(slow, pixels, first, [(0, question) for question in range(len(first[0]))])
    yield Finding(
        "fast texts beside the slow forward's choices",
        precision,
        attention,
        texts=len(judged),
        equal_texts=judged.count(0.0),
        regret=max(judged),
    )
    different = differing(fast.alone, fast.texts)
    yield Finding(
        "texts alone beside texts together",
        precision,
        attention,
        texts=len(fast.alone[0]),
        equal_texts=len(fast.alone[0]) - len(different),
        regret=max([0.0, *regrets(slow, pixels, fast.alone, different), *regrets(slow, pixels, fast.texts, different)]),
    )
