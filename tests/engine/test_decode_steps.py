from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.full_forward import CLEAR_MARGIN, embed_prompt, embed_tokens, final_hidden, read_pixels
from support.golden import PROTOCOL_NAMES, golden_images
from support.tiny_checkpoints import OTHER_NETWORKS, change_tensors, copy_checkpoint, write_random_checkpoint

from artimuse_actor import ArtiMuse
from artimuse_actor.engine.attention import PAGE_TOKENS, GatheredPages
from artimuse_actor.engine.decode_steps import DecodeSteps, page_groups
from artimuse_actor.engine.graphs import StepGraphs
from artimuse_actor.engine.kv_cache import SCRATCH_PAGE, PagedKVCache
from artimuse_actor.protocol.prompts import prompt_ids, split_prompts

TEXT_PREFIXES = {1: 70, PAGE_TOKENS - 1: 5, PAGE_TOKENS: 40, PAGE_TOKENS + 1: 33, 150: 20, 650: 35}
"""Tokens read before the first step → tokens read step by step, for a row each: from one page to 22."""
IMAGE_STEPS = 60


@dataclass
class Row:
    """A sequence whose tokens are given: what is tested is the hidden state at each of them.

    Attributes:
        tokens: those read step by step.
        expected: (T, C), the final hidden state at every position of the whole sequence.
        prefix: tokens that are in the cache before the first step.
        pages: of the cache.
        read: tokens in the cache.
    """

    tokens: list[int]
    expected: torch.Tensor
    prefix: int
    pages: list[int]
    read: int = field(init=False)

    def __post_init__(self) -> None:
        self.read = self.prefix

    @property
    def ended(self) -> bool:
        return self.read == self.prefix + len(self.tokens)

    @property
    def next_token(self) -> int:
        return self.tokens[self.read - self.prefix]


def random_tokens(model: ArtiMuse, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(model.checkpoint.config.language.vocab_size, (count,), generator=generator).tolist()


@torch.inference_mode()
def add_row(model: ArtiMuse, cache: PagedKVCache, embeddings: torch.Tensor, tokens: list[int]) -> Row:
    """Put (1, P, C) embeddings into pages, for these tokens to be read after them."""
    prefix = model.model.extend(embeddings)
    pages = cache.allocate(prefix.length // cache.page_tokens + 1)
    table = torch.tensor([pages])
    cache.write_prefix(prefix, table[:, :-1], table[:, -1])
    whole = torch.cat([embeddings, embed_tokens(model, tokens)], dim=1)
    return Row(tokens, final_hidden(model, whole), prefix.length, pages)


def text_row(model: ArtiMuse, cache: PagedKVCache, prefix: int, steps: int) -> Row:
    tokens = random_tokens(model, prefix + steps)
    return add_row(model, cache, embed_tokens(model, tokens[:prefix]), tokens[prefix:])


def image_row(model: ArtiMuse, cache: PagedKVCache, picture: int, steps: int) -> Row:
    """A whole prompt about a golden picture; all that follows the image is read step by step."""
    title, text_after_image = list(model.protocol.text_questions.items())[picture]
    embeddings = embed_prompt(model, text_after_image, read_pixels(golden_images()[picture]))
    tokenizer = model._tokenizer
    split = split_prompts(tokenizer, model.protocol, [text_after_image])
    after_image = list(split.shared + split.tails[0])
    assert prompt_ids(tokenizer, model.protocol, text_after_image)[-len(after_image) :] == after_image, title
    tokens = after_image + random_tokens(model, steps)
    return add_row(model, cache, embeddings[:, : -len(after_image)], tokens)


@dataclass
class Steps:
    """Real decode steps, and the hidden states they were decided by."""

    model: ArtiMuse
    cache: PagedKVCache
    monkeypatch: pytest.MonkeyPatch
    hidden: list[torch.Tensor] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._steps = DecodeSteps(self.model.model, self.cache)
        decode_step = self.model.model.decode_step

        def watched(token_ids: torch.Tensor, step: GatheredPages) -> torch.Tensor:
            hidden = decode_step(token_ids, step)
            self.hidden.append(hidden)
            self.groups.append(len(step.groups))
            return hidden

        self.monkeypatch.setattr(self.model.model, "decode_step", watched)

    def __call__(self, rows: Sequence[Row]) -> tuple[torch.Tensor, list[int]]:
        """(B, C) hidden states of one step, and the next tokens; the rows have read one token more."""
        for row in rows:
            if row.read == len(row.pages) * self.cache.page_tokens:
                row.pages += self.cache.allocate(1)
        launched = self._steps.launch(
            [row.next_token for row in rows], [row.read for row in rows], [row.pages for row in rows]
        )
        next_ids = launched.read().tolist()
        for row in rows:
            row.read += 1
        return self.hidden[-1], next_ids


def assert_steps_equal_full_forward(model: ArtiMuse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of very different lengths, at every position: each drops out where its tokens end."""
    cache = model.model.new_cache()
    rows = [text_row(model, cache, prefix, steps) for prefix, steps in TEXT_PREFIXES.items()]
    rows += [image_row(model, cache, picture, IMAGE_STEPS) for picture in (1, 2)]
    step, live, compared, clear = Steps(model, cache, monkeypatch), rows, 0, 0
    borders = set[int]()
    while live:
        expected = torch.stack([row.expected[row.read] for row in live])
        borders |= {row.read for row in live if row.read % cache.page_tokens == 0}
        hidden, next_ids = step(live)
        # Golden networks amplify rounding, so the largest of the values sets the scale.
        torch.testing.assert_close(hidden, expected, atol=2e-5 * float(expected.abs().max()), rtol=1e-4)
        logits = model.model.network.language_model.lm_head(expected)
        largest = logits.topk(2).values
        decided = (largest[:, 0] - largest[:, 1] > CLEAR_MARGIN).tolist()
        wanted = logits.argmax(-1).tolist()
        assert [n for n, yes in zip(next_ids, decided, strict=True) if yes] == [
            n for n, yes in zip(wanted, decided, strict=True) if yes
        ]
        compared, clear = compared + len(live), clear + sum(decided)
        live = [row for row in live if not row.ended]
    assert compared == sum(len(row.tokens) for row in rows)
    assert clear > 0.9 * compared
    assert borders >= {32, 64, 160, 320, 672}  # the first tokens of pages
    assert (step.groups[0], step.groups[-1]) == (5, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROTOCOL_NAMES)
def test_cached_decode_step_equals_full_forward(
    models: dict[str, ArtiMuse], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_steps_equal_full_forward(models[name], monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", OTHER_NETWORKS.values(), ids=OTHER_NETWORKS.keys())
def test_cached_decode_step_equals_full_forward_in_networks_of_other_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: Mapping[str, Mapping[str, Any]]
) -> None:
    model = ArtiMuse.load(write_random_checkpoint(tmp_path / "checkpoint", **sizes), protocol="artimuse")
    assert_steps_equal_full_forward(model, monkeypatch)


def test_a_step_done_again_changes_nothing(models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch) -> None:
    # Before a CUDA graph is captured, its step is done once to warm up.
    model = models["artimuse"]
    cache = model.model.new_cache()
    rows = [text_row(model, cache, prefix, 3) for prefix in (PAGE_TOKENS - 1, PAGE_TOKENS, 200)]
    step = Steps(model, cache, monkeypatch)
    hidden, next_ids = step(rows)
    stored = [tensor.clone() for tensor in (*cache.keys, *cache.values)]
    for row in rows:
        row.read -= 1
    again, next_ids_again = step(rows)
    torch.testing.assert_close(hidden, again, atol=1e-5, rtol=1e-5)
    assert next_ids == next_ids_again
    for tensor, before in zip((*cache.keys, *cache.values), stored, strict=True):
        torch.testing.assert_close(tensor, before, atol=1e-5, rtol=1e-5)


def test_what_others_left_in_a_page_changes_nothing(
    models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, found = models["artimuse"], []
    for left in (0.0, 1e3):
        cache = model.model.new_cache()
        cache.grow(100)
        for tensor in (*cache.keys, *cache.values):
            tensor.fill_(left)
        rows = [text_row(model, cache, prefix, 40) for prefix in (1, PAGE_TOKENS, 200)]
        with monkeypatch.context() as patched:
            step = Steps(model, cache, patched)
            while not rows[0].ended:
                step(rows)
        found.append(torch.cat(step.hidden))
        assert all(SCRATCH_PAGE not in row.pages for row in rows)
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "token"), [("float32", 500), ("bfloat16", 7)])
def test_logits_are_compared_in_the_networks_precision_and_of_equals_the_first_is_taken(
    tmp_path: Path, dtype: str, token: int
) -> None:
    folder = copy_checkpoint(tmp_path / "checkpoint")
    head = torch.zeros(1155, 96)
    head[[7, 500, 600], 0] = 1
    head[[500, 600], 1] = 2**-9  # 1 + 2⁻⁹ is 1 in bfloat16
    change_tensors(folder, language_model__lm_head__weight=head)
    model = ArtiMuse.load(folder, dtype=dtype).model
    hidden = torch.ones(2, 96, dtype=model.dtype)
    with torch.inference_mode():
        assert model.next_tokens(hidden).tolist() == [token, token]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60))
def test_each_row_is_in_one_group_of_less_than_twice_its_pages(counts: list[int]) -> None:
    groups = page_groups(counts)
    assert sorted(row for rows, _ in groups for row in rows) == list(range(len(counts)))
    for rows, width in groups:
        assert width == max(counts[row] for row in rows)
        assert width < 2 * min(counts[row] for row in rows)
    widths = [width for _, width in groups]
    assert all(2 * narrow <= wide for wide, narrow in pairwise(widths))  # so there are few: 9 for 300 pages


def test_one_long_text_does_not_widen_the_others() -> None:
    assert page_groups([11, 12, 64, 10, 12]) == [([2], 64), ([1, 4, 0, 3], 12)]
    assert page_groups([12] * 32) == [(list(range(32)), 12)]
    assert page_groups([1, 2, 4, 8]) == [([3], 8), ([2], 4), ([1], 2), ([0], 1)]


@pytest.mark.parametrize(
    ("rows", "pages", "size"),
    [(1, 1, (1, 8)), (3, 8, (4, 8)), (512, 9, (512, 16)), (500, 64, (512, 64)), (1, 65, None), (513, 1, None)],
    ids=["one page", "256 tokens", "and one", "2,048 tokens", "too long", "too many rows"],
)
def test_a_graph_is_as_wide_as_the_next_256_tokens_if_it_pays(
    models: dict[str, ArtiMuse], rows: int, pages: int, size: tuple[int, int] | None
) -> None:
    model = models["artimuse"].model
    assert StepGraphs(model, model.new_cache(2), torch.zeros(512)).size_for(rows, pages) == size
