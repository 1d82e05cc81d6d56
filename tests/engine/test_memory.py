"""The text engine on a device with little memory, with a network that is all arithmetic.

The network of these tests remembers: its keys are the tokens it has read, and its next token follows from all of them.
So a page that is lost, shared or overwritten changes a text, and a thousand runs take a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from artimuse_actor.engine.attention import GatheredPages, RowGroups
from artimuse_actor.engine.device_memory import memory_errors
from artimuse_actor.engine.kv_cache import EMPTY_CACHE, KVCache, PagedKVCache
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.engine.schedule import GeneratedText
from artimuse_actor.engine.text_budget import TextBudget
from artimuse_actor.engine.text_engine import TextEngine
from artimuse_actor.errors import RunError
from artimuse_actor.protocol.prompts import SplitPrompts, split_tails

PROMPTS = SplitPrompts(head=(1, 2, 3), shared=(4,), tails=((5, 6), (7, 8), (7, 9), (7, 8, 9)))
SCORE_QUESTIONS = 1
PREFIX = 3 + 256 + 1 + 1
STOP, VOCABULARY = 0, 89
CPU = torch.device("cpu")


class PagesFor16Tokens(GatheredPages):
    page_tokens = 16


WHOLE = PREFIX // PagesFor16Tokens.page_tokens


@dataclass
class Device:
    """Memory in units of one page.

    Attributes:
        total: all of it.
        image: units that the prefill of one image takes while it runs.
        row: units that a row of a decode step takes while it runs.
    """

    total: int
    image: int = 3
    row: float = 0.01

    def check(self, pages: int, more: float = 0) -> None:
        if pages + more > self.total:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class CountedCache(PagedKVCache):
    """A cache on a device of so much memory."""

    def __init__(self, memory: Device, **arguments: Any) -> None:
        memory.check(arguments["pages"] or 1)
        super().__init__(**arguments)
        self._memory = memory

    def grow(self, count: int) -> None:
        self._memory.check(self.pages + count)
        super().grow(count)


@dataclass
class RememberingNetwork:
    """Stands for `VisionLanguageModel`: one layer, one head of one feature, which is the token itself."""

    memory: Device
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    pages: type[GatheredPages] = PagesFor16Tokens
    caches: list[CountedCache] = field(default_factory=list)
    prefills: int = 0
    rows: int = 0
    rows_from_device: int = 0

    def new_cache(self, pages: int | None = None, *, frugal: bool = False) -> PagedKVCache:
        self.caches[:] = []
        shape = {"layers": 1, "kv_heads": 1, "head_dim": 1, "page_tokens": self.pages.page_tokens}
        place = {"device": self.device, "dtype": self.dtype}
        self.caches.append(CountedCache(self.memory, **shape, **place, pages=pages, frugal=frugal))
        return self.caches[0]

    def embed(self, token_ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor(token_ids, dtype=self.dtype).view(1, -1, 1)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        self.memory.check(self.caches[0].pages, self.memory.image * len(pixels))
        self.prefills += 1
        return pixels[:, :1, 0, 0].to(self.dtype).expand(-1, 256).unsqueeze(-1)

    def extend(self, hidden: torch.Tensor, past: KVCache = EMPTY_CACHE) -> KVCache:
        new = hidden.transpose(1, 2).unsqueeze(-1)  # (B, 1, T, 1)
        if past.layers:
            new = torch.cat([past.layers[0][0].expand(len(new), -1, -1, -1), new], dim=2)
        return KVCache(((new, new),))

    def last_hidden(self, hidden: torch.Tensor, past: KVCache) -> torch.Tensor:
        return past.layers[0][0].sum(dim=2).flatten(1) + hidden.sum(dim=1)

    def head_logits(self, last_hidden: torch.Tensor, token_ids: torch.Tensor, *, rounded: bool) -> torch.Tensor:
        assert not rounded
        return last_hidden * token_ids

    def read_step(
        self, packed: torch.Tensor, cache: PagedKVCache, _: RowGroups, last_ids: torch.Tensor, __: None
    ) -> torch.Tensor:
        self.memory.check(cache.pages, self.memory.row * len(packed))
        self.rows += len(packed)
        self.rows_from_device += int((packed[:, 0] < 0).sum())
        positions, table = packed[:, 1], packed[:, 2:]
        token_ids = [int(last_ids[-1 - token]) if token < 0 else int(token) for token in packed[:, 0]]
        new = torch.tensor(token_ids, dtype=self.dtype).view(-1, 1, 1)
        cache.write(0, *cache.slots(positions, table), new, new)
        rows = cache.keys[0][table].flatten(1).to(torch.int64).numpy()  # (B, W·S)
        found = [next_token(row[: position + 1]) for row, position in zip(rows, positions, strict=True)]
        last_ids[: len(packed)] = torch.tensor(found)
        return torch.tensor(found)


def next_token(history: Sequence[int] | np.ndarray[Any, Any]) -> int:
    tokens = np.asarray(history, dtype=np.int64)
    mixed = int((tokens * (np.arange(len(tokens)) * 7 + 3) % 1009).sum())
    return mixed * 31 % 1013 % VOCABULARY


def slow_text(picture: int, tail: tuple[int, ...], limit: int) -> GeneratedText:
    history = [*PROMPTS.head, *[picture] * 256, *PROMPTS.shared, *tail]
    text: list[int] = []
    while len(text) < limit:
        token = next_token(history + text)
        if token == STOP:
            return GeneratedText(tuple(text), "stop")
        text.append(token)
    return GeneratedText(tuple(text), "length")


def wanted_texts(pictures: Sequence[int], limit: int) -> dict[int, tuple[GeneratedText, ...]]:
    tails = PROMPTS.tails[SCORE_QUESTIONS:]
    return {key: tuple(slow_text(picture, tail, limit) for tail in tails) for key, picture in enumerate(pictures)}


def new_engine(network: RememberingNetwork, limit: int, budget: TextBudget, *, late: bool = False) -> TextEngine:
    engine = TextEngine(
        cast(VisionLanguageModel, network),
        PROMPTS,
        level_ids=torch.arange(101),
        score_questions=SCORE_QUESTIONS,
        stop_id=STOP,
        max_new_tokens=limit,
        budget=budget,
    )
    engine._reads_late = late
    return engine


def work_off(engine: TextEngine, pictures: Sequence[int]) -> dict[int, tuple[GeneratedText, ...]]:
    for key, picture in enumerate(pictures):
        engine.add(key, np.full((2, 1, 1), picture, np.uint8))
    answered, steps = {}, 0
    while engine.busy:
        for image in engine.step():
            assert image.key not in answered
            assert image.probabilities is not None
            answered[image.key] = image.texts
        steps += 1
        assert steps < 30_000, "it would never end"
    cache = engine._schedule.cache
    assert cache.free_pages == cache.pages - 1
    return answered


def own_pages(texts: Mapping[int, Sequence[GeneratedText]]) -> int:
    """Pages of its own that the longest sequence takes; the last token of a cut text is not read."""
    lengths = [
        PREFIX + len(tail) - 1 + len(text.token_ids) - (text.finish_reason == "length")
        for answers in texts.values()
        for tail, text in zip(PROMPTS.tails[SCORE_QUESTIONS:], answers, strict=True)
    ]
    return max(-(-length // PagesFor16Tokens.page_tokens) for length in lengths) - WHOLE


def test_the_remembering_network_gives_texts_of_all_lengths() -> None:
    texts = wanted_texts(range(1, 40), 150)
    lengths = [len(text.token_ids) for answers in texts.values() for text in answers]
    assert min(lengths) < 3
    assert max(lengths) == 150
    network = RememberingNetwork(Device(10_000))
    assert work_off(new_engine(network, 150, TextBudget(16, 2, None)), range(1, 40)) == texts
    assert network.prefills == 20  # two images at a time, and none twice


def test_a_growing_cache_leaves_a_prefill_its_memory() -> None:
    # The cache once grew to 118 of 120 pages and never shrank: the run ended while all but one of them were free.
    texts = wanted_texts(range(1, 13), 150)
    network = RememberingNetwork(Device(120))
    assert work_off(new_engine(network, 150, TextBudget(48, 2, None)), range(1, 13)) == texts


def test_results_read_late_are_the_same_and_cost_one_row_for_each_text_that_ends_by_itself() -> None:
    texts = wanted_texts(range(1, 13), 60)
    ended = sum(text.finish_reason == "stop" for answers in texts.values() for text in answers)
    at_once, late = RememberingNetwork(Device(500)), RememberingNetwork(Device(500))
    assert work_off(new_engine(at_once, 60, TextBudget(16, 2, 400)), range(1, 13)) == texts
    assert work_off(new_engine(late, 60, TextBudget(16, 2, 400), late=True), range(1, 13)) == texts
    assert at_once.rows_from_device == 0
    assert late.rows == at_once.rows + ended
    # All but the tokens of the questions come from the step before.
    _, own_tails = split_tails(PROMPTS.tails[SCORE_QUESTIONS:])
    questions = sum(map(len, own_tails)) * 12
    assert late.rows_from_device == late.rows - questions


@pytest.mark.parametrize("total", [*range(1, 60, 3), 90, 200])
def test_a_growing_cache_ends_a_run_only_where_one_text_alone_does_not_fit(total: int) -> None:
    memory = Device(total)
    texts = wanted_texts(range(1, 8), 150)
    needed = 1 + WHOLE + 1 + max(memory.image, own_pages(texts) + memory.row)
    engine = new_engine(RememberingNetwork(memory), 150, TextBudget(24, 4, None))
    if total < needed:
        with pytest.raises(RunError, match="One text does not fit"):
            work_off(engine, range(1, 8))
    else:
        assert work_off(engine, range(1, 8)) == texts


@pytest.mark.parametrize("pages", [*range(1, 60, 3), 90, 200])
def test_a_fixed_cache_ends_a_run_only_where_one_text_alone_does_not_fit(pages: int) -> None:
    texts = wanted_texts(range(1, 8), 150)
    engine = new_engine(RememberingNetwork(Device(pages + 5)), 150, TextBudget(24, 4, pages), late=True)
    if pages < 1 + WHOLE + 1 + own_pages(texts):
        with pytest.raises(RunError, match="One text does not fit"):
            work_off(engine, range(1, 8))
    else:
        assert work_off(engine, range(1, 8)) == texts


def test_a_fixed_cache_that_left_too_little_gives_up_pages_until_the_prefill_fits() -> None:
    texts = wanted_texts(range(1, 8), 40)
    network = RememberingNetwork(Device(100))
    engine = new_engine(network, 40, TextBudget(24, 4, 100))
    assert work_off(engine, range(1, 8)) == texts
    assert engine._schedule.cache.pages == 75
    assert engine.max_admission == 1


@pytest.mark.slow
@settings(max_examples=50)
@given(
    total=st.integers(22, 140),
    limit=st.integers(1, 60),
    pictures=st.lists(st.integers(1, 255), min_size=1, max_size=6),
    sequences=st.integers(1, 40),
    admission=st.integers(1, 6),
    image=st.integers(0, 30),
    row=st.sampled_from([0, 0.3, 2]),
    fixed=st.booleans(),
    late=st.booleans(),
)
def test_whatever_the_memory_every_text_is_whole_or_the_run_says_that_one_does_not_fit(
    total: int,
    limit: int,
    pictures: list[int],
    sequences: int,
    admission: int,
    image: int,
    row: float,
    fixed: bool,
    late: bool,
) -> None:
    texts = wanted_texts(pictures, limit)
    memory = Device(total, image, row)
    pages = max(1, total - image - int(row * sequences) - 1) if fixed else None
    text_pages = 1 + WHOLE + 1 + own_pages(texts)
    fits = text_pages <= pages if pages else total >= max(1 + WHOLE + 1 + image, text_pages + row)
    engine = new_engine(RememberingNetwork(memory), limit, TextBudget(sequences, admission, pages), late=late)
    if fits:
        assert work_off(engine, pictures) == texts
    else:
        with pytest.raises(RunError, match="One text does not fit"):
            work_off(engine, pictures)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory",
        "CUDA driver error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN Frontend error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "MPS backend out of memory (MPS allocated: 17.00 GB)",
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
    ],
)
@pytest.mark.parametrize("error", [RuntimeError, torch.AcceleratorError, torch.OutOfMemoryError])
def test_whatever_says_that_memory_is_short_is_treated_alike(error: type[Exception], message: str) -> None:
    with pytest.raises(torch.OutOfMemoryError, match=r"memory|ALLOC"), memory_errors():
        raise error(message)


def test_other_errors_of_a_device_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="misaligned") as caught, memory_errors():
        raise torch.AcceleratorError("CUDA error: misaligned address")
    assert not isinstance(caught.value, torch.OutOfMemoryError)
