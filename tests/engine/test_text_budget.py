from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from artimuse_actor import ArtiMuse
from artimuse_actor.checkpoint.network_config import NetworkConfig
from artimuse_actor.engine.attention import DecodePages, GatheredPages, VarlenPages
from artimuse_actor.engine.text_budget import (
    CPU_SEQUENCES,
    GRAPH_BYTES,
    MAX_AUTO_SEQUENCES,
    WORKSPACE_BYTES,
    TextBudget,
    TextPrompts,
    text_budget,
)
from bench.engine.random_network import FULL

GIB = 2**30
PROMPTS = TextPrompts(prefix=311, longest=11, count=8, max_new_tokens=512)
PAGE_BYTES = 256 * 57_344

Budget = Callable[..., TextBudget]


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch) -> Budget:
    """The budget of the published network on a GPU with so much free memory."""

    def budget(
        free_gib: float,
        prompts: TextPrompts = PROMPTS,
        kind: type[DecodePages] = VarlenPages,
        sequences: int | None = None,
        batch_size: int = 64,
    ) -> TextBudget:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free_gib * GIB), 0))
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        return text_budget(
            FULL,
            prompts,
            device=torch.device("cuda"),
            dtype=torch.bfloat16,
            kind=kind,
            batch_size=batch_size,
            sequences=sequences,
        )

    return budget


def test_a_large_card_takes_no_more_than_texts_at_their_limit_need(budget: Budget) -> None:
    large = budget(124)
    assert (large.sequences, large.max_admission) == (MAX_AUTO_SEQUENCES, 32)
    assert large.pages is not None
    # Three pages for each text of at most 512 tokens, and two for each of 64 images and 32 that wait.
    assert large.pages == 1 + 512 * 3 + 96 * 2
    assert large == budget(80)


@pytest.mark.parametrize("free_gib", [3, 4, 7.4, 12, 25, 60])
@pytest.mark.parametrize("kind", [VarlenPages, GatheredPages])
def test_the_cache_leaves_a_prefill_graphs_and_workspaces_their_memory(
    budget: Budget, free_gib: float, kind: type[DecodePages]
) -> None:
    found = budget(free_gib, PROMPTS, kind)
    assert found.pages is not None
    page_bytes = kind.page_tokens * 57_344
    left = free_gib * GIB - found.pages * page_bytes - WORKSPACE_BYTES - 24 * GRAPH_BYTES
    assert left > found.max_admission * 160e6  # bytes of an image's prefill
    assert 1 <= found.sequences <= MAX_AUTO_SEQUENCES
    # One prefill's sequences do not fill more than half of the places.
    assert found.max_admission == 1 or 16 * found.max_admission <= found.sequences


def test_a_card_of_24_gb_keeps_over_a_hundred_sequences_in_flight(budget: Budget) -> None:
    found = budget(7.4)
    assert found.sequences > 100
    assert found.pages is not None
    assert found.pages * PAGE_BYTES > 3 * GIB


def test_where_probabilities_are_noted_two_float32_copies_of_the_logits_are_set_aside(
    models: dict[str, ArtiMuse], budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = budget(10, replace(PROMPTS, watched=True), sequences=256)
    plain = budget(10, sequences=256)
    assert noted.pages is not None
    assert plain.pages is not None
    less = (plain.pages - noted.pages) * PAGE_BYTES
    assert less == pytest.approx(256 * 2 * 4 * FULL.language.vocab_size, abs=PAGE_BYTES)
    asked: list[TextPrompts] = []

    def asking(config: NetworkConfig, prompts: TextPrompts, **options: Any) -> TextBudget:
        asked.append(prompts)
        return text_budget(config, prompts, **options)

    monkeypatch.setattr("artimuse_actor.engine.sized_text_engine.text_budget", asking)
    models["artimuse"].describer()
    models["artimuse"].answerer()
    assert [prompts.watched for prompts in asked] == [False, True]


def test_more_memory_means_more_sequences_or_a_larger_prefill(budget: Budget) -> None:
    budgets = [budget(free / 4) for free in range(8, 200)]
    for less, more in pairwise(budgets):
        assert less.sequences <= more.sequences or 2 * less.max_admission <= more.max_admission
    assert budgets[0].sequences < 30
    assert budgets[-1].sequences == MAX_AUTO_SEQUENCES


def test_without_memory_the_smallest_budget_is_tried(budget: Budget) -> None:
    assert budget(0) == TextBudget(1, 1, 4)


def test_a_number_of_sequences_that_the_user_gives_is_kept(budget: Budget) -> None:
    assert budget(124, sequences=700).sequences == 700
    assert budget(7.4, sequences=64).sequences == 64
    assert budget(124, sequences=1).max_admission == 1


def test_a_long_limit_takes_the_memory_that_is_there(budget: Budget) -> None:
    found = budget(124, TextPrompts(prefix=311, longest=11, count=8, max_new_tokens=8192))
    assert found.pages is not None
    assert 90 * GIB < found.pages * PAGE_BYTES < 116 * GIB


def test_on_a_cpu_the_cache_grows() -> None:
    found = text_budget(
        FULL, PROMPTS, device=torch.device("cpu"), dtype=torch.float32, kind=GatheredPages, batch_size=2
    )
    assert found == TextBudget(CPU_SEQUENCES, 2, None)
