"""The passes of a job over the full network, counted on fake tensors: a score batch, an admission, a decode step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch

from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.engine.read_prompts import after_image, read_answers, read_prompts
from artimuse_actor.engine.scoring import LEVEL_COUNT, level_probabilities
from artimuse_actor.engine.watched_tokens import WatchedTokens
from artimuse_actor.protocol.prompts import SplitPrompts, split_tails
from artimuse_actor.protocol.protocols import IMAGE_TOKENS
from bench.engine.fake_cuda import CUDA, Counts, count
from bench.engine.fake_kernels import PAGED_ATTENTION
from bench.engine.random_network import HEAD_TOKENS, TAIL_TOKENS, TEXT_SHARED_TOKENS, TEXT_TAIL_TOKENS

PREFIX_TOKENS: Final = HEAD_TOKENS + IMAGE_TOKENS + TEXT_SHARED_TOKENS
_SCORE_TAIL: Final = (1,) * TAIL_TOKENS
_TEXT_TAILS: Final = tuple((1,) * (TEXT_SHARED_TOKENS - 1) + (2 + n,) * k for n, k in enumerate(TEXT_TAIL_TOKENS))


def score_batch(model: VisionLanguageModel, images: int, questions: int = 1) -> Counts:
    """Scores of so many images, from pixels on the CPU to probabilities on the CPU."""
    prompts = read_prompts(model, SplitPrompts((1,) * HEAD_TOKENS, (), (_SCORE_TAIL,) * questions))
    level_ids = torch.zeros(LEVEL_COUNT, dtype=torch.int64, device=CUDA)
    pixels = torch.empty(images, 448, 448, 3, dtype=torch.uint8)

    def work() -> None:
        hidden = read_answers(model, prompts, model.encode_images(pixels))  # (B, Q, C)
        probabilities = level_probabilities(model.head_logits(hidden, level_ids)).cpu()
        assert probabilities.shape == (images, questions, LEVEL_COUNT)
        assert probabilities.dtype == torch.float32

    return count(work)


def admission(model: VisionLanguageModel, images: int) -> Counts:
    """The prefill of so many images for texts, with their scores, into pages."""
    text_shared, _ = split_tails(_TEXT_TAILS)
    prompts = read_prompts(model, SplitPrompts((1,) * HEAD_TOKENS, (1,), (_SCORE_TAIL[1:],)))
    shared = model.embed(text_shared)
    whole = PREFIX_TOKENS // model.pages.page_tokens
    cache = model.new_cache(images * (whole + 1) + 1)
    level_ids = torch.zeros(LEVEL_COUNT, dtype=torch.int64, device=CUDA)
    pixels = torch.empty(images, 448, 448, 3, dtype=torch.uint8)
    table = torch.zeros(images, whole + 1, dtype=torch.int64)

    def work() -> None:
        prefix = model.extend(after_image(model.encode_images(pixels), prompts.shared), prompts.head)
        hidden = model.last_hidden(prompts.tails[0].expand(images, -1, -1), prefix)  # (B, C)
        level_probabilities(model.head_logits(hidden, level_ids)).cpu()
        prefix = model.extend(shared.expand(images, -1, -1), prefix)
        assert prefix.length == PREFIX_TOKENS
        pages = table.to(CUDA)
        cache.write_prefix(prefix, pages[:, :-1], pages[:, -1])

    return count(work)


def decode_step(model: VisionLanguageModel, rows: int, tokens: int, watched: int = 0) -> Counts:
    """One step of so many rows that have read so many tokens, as it is captured; it notes so many probabilities."""
    counts = count(captured_step(model, rows, tokens, watched))
    # A kernel reads of the last page only what is used.
    span = -(-(tokens + 1) // model.pages.page_tokens) * model.pages.page_tokens
    for numbers in (counts.bytes, counts.flops):
        numbers[PAGED_ATTENTION] = numbers[PAGED_ATTENTION] * (tokens + 1) // span
    return counts


def captured_step(model: VisionLanguageModel, rows: int, tokens: int, watched: int = 0) -> Callable[[], None]:
    """The work of such a step."""
    width = -(-(tokens + 1) // model.pages.page_tokens)
    cache = model.new_cache(2)
    packed = torch.zeros(rows, 2 + width, dtype=torch.int64, device=CUDA)
    last_ids = torch.zeros(rows, dtype=torch.int64, device=CUDA)
    tokens_watched = WatchedTokens(range(watched), rows, CUDA) if watched else None

    def work() -> None:
        next_ids = model.read_step(packed, cache, last_ids=last_ids, watched=tokens_watched)
        assert next_ids.shape == (rows,)
        assert next_ids.dtype == torch.int64
        assert next_ids.is_cuda

    return work
