from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from artimuse_actor.engine.attention import GatheredPages, PageGroup
from artimuse_actor.engine.kv_cache import EMPTY_CACHE, SCRATCH_PAGE, KVCache, OutOfPagesError, PagedKVCache

LAYERS, HEADS, FEATURES, PAGE = 3, 2, 4, 8


def new_cache(
    page_tokens: int = PAGE, dtype: torch.dtype = torch.float32, pages: int | None = None, frugal: bool = False
) -> PagedKVCache:
    return PagedKVCache(
        layers=LAYERS,
        kv_heads=HEADS,
        head_dim=FEATURES,
        page_tokens=page_tokens,
        device=torch.device("cpu"),
        dtype=dtype,
        pages=pages,
        frugal=frugal,
    )


def random_prefix(images: int, tokens: int) -> KVCache:
    generator = torch.Generator().manual_seed(tokens)
    shape = (images, HEADS, tokens, FEATURES)
    blocks = [torch.randn(shape, generator=generator) for _ in range(2 * LAYERS)]
    return KVCache(tuple(zip(blocks[::2], blocks[1::2], strict=True)))


def free_pages(cache: PagedKVCache) -> list[int]:
    """All of them, by taking and giving back those that are there without growing."""
    pages = cache.pages
    held = cache.allocate(cache.free_pages)
    assert cache.pages == pages
    cache.release(held)
    return sorted(held)


def fill(cache: PagedKVCache) -> list[torch.Tensor]:
    """Random values everywhere; copies of them, the keys of each layer before the values."""
    generator = torch.Generator().manual_seed(0)
    for tensor in (*cache.keys, *cache.values):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return [tensor.clone() for tensor in (*cache.keys, *cache.values)]


@contextmanager
def memory_for(tensors: int) -> Iterator[None]:
    """The device runs out of memory, as a GPU does, after so many new tensors."""
    made, new_zeros = count(), torch.Tensor.new_zeros

    def run_out_of_memory(self: torch.Tensor, *size: int) -> torch.Tensor:
        if next(made) >= tensors:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return new_zeros(self, *size)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(torch.Tensor, "new_zeros", run_out_of_memory)
        yield


def test_an_empty_block_is_of_no_tokens() -> None:
    assert EMPTY_CACHE.length == 0
    assert random_prefix(2, 5).length == 5


def test_a_new_cache_holds_the_scratch_page_alone_and_gives_it_to_nobody() -> None:
    cache = new_cache()
    assert (cache.pages, free_pages(cache)) == (1, [])
    assert [tuple(tensor.shape) for tensor in cache.keys] == LAYERS * [(1, PAGE, HEADS, FEATURES)]
    assert SCRATCH_PAGE not in cache.allocate(200)


def test_pages_come_in_layers_of_one_size_and_dtype_and_are_zero() -> None:
    # A masked token's weight of 0 would not hide what is no number.
    cache = new_cache(dtype=torch.bfloat16)
    cache.grow(5)
    assert cache.pages == 6
    for tensor in (*cache.keys, *cache.values):
        assert (tuple(tensor.shape), tensor.dtype) == ((6, PAGE, HEADS, FEATURES), torch.bfloat16)
        assert not tensor.any()


def test_given_back_pages_are_used_again_before_the_cache_grows() -> None:
    cache = new_cache()
    first = cache.allocate(20)
    pages = cache.pages
    cache.release(first)
    for _ in range(5):
        held = cache.allocate(pages - 1)
        assert sorted(held) == list(range(1, pages))
        cache.release(held)
    assert cache.pages == pages


def test_the_cache_grows_by_a_quarter_so_that_it_is_seldom_copied_and_little_is_idle() -> None:
    cache, sizes = new_cache(), list[int]()
    for _ in range(3000):
        cache.allocate(1)
        if not sizes or sizes[-1] != cache.pages:
            sizes.append(cache.pages)
    assert len(sizes) < 20
    assert all(after <= max(before * 1.25, before + 32) for before, after in pairwise(sizes))


@given(st.lists(st.one_of(st.integers(0, 80), st.floats(0, 1)), max_size=30))
def test_no_page_is_ever_held_twice_lost_or_the_scratch_page(actions: list[int | float]) -> None:
    """A whole number takes as many pages; a fraction gives back as large a part of what is held."""
    cache, held = new_cache(), list[int]()
    for action in actions:
        if isinstance(action, int):
            taken = cache.allocate(action)
            assert len(taken) == action
            held += taken
        else:
            given_back = round(action * len(held))
            cache.release(held[:given_back])
            del held[:given_back]
        assert sorted([SCRATCH_PAGE, *held, *free_pages(cache)]) == list(range(cache.pages))
        assert all(len(tensor) == cache.pages for tensor in (*cache.keys, *cache.values))


def test_growing_keeps_what_was_stored() -> None:
    cache = new_cache()
    cache.grow(3)
    before = fill(cache)
    cache.grow(40)
    for tensor, stored in zip((*cache.keys, *cache.values), before, strict=True):
        assert torch.equal(tensor[:4], stored)
        assert not tensor[4:].any()


@pytest.mark.parametrize("tensors", range(2 * LAYERS))
def test_growth_that_failed_half_way_takes_nothing_and_leaves_the_cache_usable(tensors: int) -> None:
    cache = new_cache()
    held = cache.allocate(10)
    pages, free = cache.pages, free_pages(cache)
    before = fill(cache)
    with memory_for(tensors), pytest.raises(OutOfPagesError):
        cache.allocate(len(free) + 200)
    assert (cache.pages, free_pages(cache)) == (pages, free)
    for tensor, stored in zip((*cache.keys, *cache.values), before, strict=True):
        assert torch.equal(tensor[held], stored[held])
    kept = list(held)
    for more in (1, 100, 300):  # smaller than the attempt that failed, and larger
        held += cache.allocate(len(free_pages(cache)) + more)
        assert sorted([SCRATCH_PAGE, *held]) == sorted({SCRATCH_PAGE, *held})
        assert max(held) < min(len(tensor) for tensor in (*cache.keys, *cache.values))
    for tensor, stored in zip((*cache.keys, *cache.values), before, strict=True):
        assert torch.equal(tensor[kept], stored[kept])
        assert not tensor[held[len(kept) :]].any()


def test_pages_are_handed_out_empty_whatever_was_in_them() -> None:
    cache = new_cache()
    held = cache.allocate(100)
    for tensor in (*cache.keys, *cache.values):
        tensor.fill_(torch.nan)
    cache.release(held)
    for pages in (1, 3, 70, 26):
        taken = cache.allocate(pages)
        assert not any(tensor[taken].any() for tensor in (*cache.keys, *cache.values))


def test_a_cache_with_room_for_what_is_needed_only_grows_by_that(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, grow = new_cache(), PagedKVCache.grow
    cache.allocate(cache.free_pages)

    def up_to_two(self: PagedKVCache, pages: int) -> None:
        if pages > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        grow(self, pages)

    monkeypatch.setattr(PagedKVCache, "grow", up_to_two)
    before = cache.pages
    cache.allocate(2)
    assert cache.pages == before + 2
    with pytest.raises(OutOfPagesError):
        cache.allocate(3)


def test_a_frugal_cache_grows_by_what_is_needed() -> None:
    cache = new_cache(frugal=True)
    for pages in (1, 7):
        cache.allocate(pages)
        assert cache.free_pages == 0
    assert cache.pages == 9


def test_a_fixed_cache_is_one_allocation_that_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    # Captured graphs keep its addresses.
    cache = new_cache(pages=12)
    assert (cache.pages, cache.free_pages, cache.grows) == (12, 11, False)
    assert len({tensor.untyped_storage().data_ptr() for tensor in (*cache.keys, *cache.values)}) == 1
    addresses = [tensor.data_ptr() for tensor in (*cache.keys, *cache.values)]
    assert len(set(addresses)) == 2 * LAYERS
    held = cache.allocate(11)
    assert sorted(held) == list(range(1, 12))
    with pytest.raises(OutOfPagesError):
        cache.allocate(1)
    cache.release(held[:3])
    assert sorted(cache.allocate(3)) == sorted(held[:3])
    assert addresses == [tensor.data_ptr() for tensor in (*cache.keys, *cache.values)]


@pytest.mark.parametrize("pages", [None, 20])
def test_a_copied_page_has_what_the_other_has_in_every_layer(pages: int | None) -> None:
    cache = new_cache(pages=pages)
    held = cache.allocate(6)
    before = fill(cache)
    cache.copy([held[0], held[0], held[3]], [held[1], held[2], held[5]])
    for tensor, stored in zip((*cache.keys, *cache.values), before, strict=True):
        assert torch.equal(tensor[[held[1], held[2], held[5]]], stored[[held[0], held[0], held[3]]])
        assert torch.equal(tensor[[held[0], held[3], held[4]]], stored[[held[0], held[3], held[4]]])


def test_while_it_grows_there_is_never_more_than_one_tensor_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, new_zeros = new_cache(), torch.Tensor.new_zeros
    tensors_in_use: list[list[int]] = []

    def watch(self: torch.Tensor, *size: int) -> torch.Tensor:
        tensors_in_use.append([len(tensor) for tensor in (*cache.keys, *cache.values)])
        return new_zeros(self, *size)

    monkeypatch.setattr(torch.Tensor, "new_zeros", watch)
    cache.grow(9)
    assert tensors_in_use == [[10] * done + [1] * (2 * LAYERS - done) for done in range(2 * LAYERS)]


def test_one_token_a_row_goes_into_its_place_and_nowhere_else() -> None:
    cache = new_cache()
    cache.grow(4)
    expected = fill(cache)
    keys, values = torch.ones(2, HEADS, FEATURES), torch.full((2, HEADS, FEATURES), 2.0)
    cache.write(1, torch.tensor([3, 1]), torch.tensor([0, PAGE - 1]), keys, values)
    for page, offset in ((3, 0), (1, PAGE - 1)):
        expected[1][page, offset] = 1
        expected[LAYERS + 1][page, offset] = 2
    for tensor, wanted in zip((*cache.keys, *cache.values), expected, strict=True):
        assert torch.equal(tensor, wanted)


@pytest.mark.parametrize("tokens", [1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 3 * PAGE + 5])
@pytest.mark.parametrize("images", [1, 3])
def test_a_prefix_is_stored_page_by_page_and_its_rest_in_the_stem(tokens: int, images: int) -> None:
    cache, prefix, whole = new_cache(), random_prefix(images, tokens), tokens // PAGE
    pages = torch.tensor(cache.allocate(images * (whole + 1)))
    pages = pages[torch.randperm(len(pages), generator=torch.Generator().manual_seed(1))].view(images, -1)
    before = fill(cache)
    cache.write_prefix(prefix, pages[:, :whole], pages[:, whole])
    for layer, blocks in enumerate(prefix.layers):
        for block, tensor in zip(blocks, (cache.keys[layer], cache.values[layer]), strict=True):
            for image in range(images):
                read = torch.cat([tensor[page] for page in pages[image].tolist()])
                assert torch.equal(read[:tokens], block[image].transpose(0, 1))
    untouched = [page for page in range(cache.pages) if page not in pages.flatten().tolist()]
    for tensor, stored in zip((*cache.keys, *cache.values), before, strict=True):
        assert torch.equal(tensor[untouched], stored[untouched])


def test_rows_of_a_step_know_their_page_their_offset_and_what_they_may_see() -> None:
    cache = new_cache()
    positions = torch.tensor([0, PAGE - 1, PAGE, 2 * PAGE + 3])
    table = torch.tensor([[4, 0, 0], [5, 0, 0], [6, 9, 0], [7, 8, 3]])
    pages, offsets = cache.slots(positions, table)
    assert pages.tolist() == [4, 5, 9, 3]
    assert offsets.tolist() == [0, PAGE - 1, 0, 3]
    (group,) = GatheredPages(cache, positions, table).groups
    assert group.rows is None
    assert_sees_everything_up_to_its_own_token(group, positions.tolist(), 3)


def test_groups_of_a_step_hold_their_rows_pages_only() -> None:
    cache = new_cache()
    positions = torch.tensor([1, 2 * PAGE + 3, 0])
    table = torch.tensor([[4, 0, 0], [7, 8, 3], [5, 0, 0]])
    long, short = GatheredPages(cache, positions, table, [([1], 3), ([2, 0], 1)]).groups
    assert long.rows is not None
    assert short.rows is not None
    assert (long.rows.tolist(), long.table.tolist()) == ([1], [[7, 8, 3]])
    assert (short.rows.tolist(), short.table.tolist()) == ([2, 0], [[5], [4]])
    assert_sees_everything_up_to_its_own_token(long, [2 * PAGE + 3], 3)
    assert_sees_everything_up_to_its_own_token(short, [0, 1], 1)


def assert_sees_everything_up_to_its_own_token(group: PageGroup, positions: list[int], width: int) -> None:
    assert tuple(group.mask.shape) == (len(positions), 1, 1, width * PAGE)
    for mask, position in zip(group.mask[:, 0, 0], positions, strict=True):
        assert mask.tolist() == [0.0] * (position + 1) + [-torch.inf] * (width * PAGE - position - 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_masks_are_of_the_caches_dtype(dtype: torch.dtype) -> None:
    # SDPA refuses a float mask of another dtype than its queries.
    step = GatheredPages(new_cache(dtype=dtype), torch.tensor([3]), torch.tensor([[1]]))
    assert step.groups[0].mask.dtype == dtype
