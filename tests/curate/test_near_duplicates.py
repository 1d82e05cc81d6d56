from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.photo_copies import COPIES, CROPPED, RECOMPRESSED, RESIZED, hashes, photos, recall_and_precision

from jobs.curate import near_duplicates
from jobs.curate.near_duplicates import MAX_DISTANCE, default_distance, follow_best, hamming

Codes = NDArray[np.uint64]


def follow_best_slowly(codes: Codes, distance: int) -> NDArray[np.int64]:
    """One picture after the other, each compared with all that are kept."""
    leader, kept = np.arange(len(codes)), np.empty(0, dtype=np.int64)
    for picture in range(len(codes)):
        near = kept[hamming(codes[kept], codes[picture : picture + 1]) <= distance]
        if len(near):
            leader[picture] = near[0]
        else:
            kept = np.append(kept, picture)
    return leader


def random_codes(generator: np.random.Generator, count: int) -> Codes:
    return generator.integers(0, 2**64, count, dtype=np.uint64)


def flipped(generator: np.random.Generator, codes: Codes, bits: int) -> Codes:
    """Each hash with up to that many bits flipped."""
    for _ in range(bits):
        codes = codes ^ np.uint64(1) << generator.integers(0, 64, len(codes)).astype(np.uint64)
    return codes


@given(st.lists(st.integers(0, 2**64 - 1), max_size=60), st.lists(st.integers(0, 63), max_size=60), st.integers(0, 12))
def test_few_pictures_follow_as_if_compared_one_by_one(words: list[int], bits: list[int], distance: int) -> None:
    copies = [word ^ 1 << bit for word, bit in zip(words, bits, strict=False)]
    codes = np.array([*words, *copies], dtype=np.uint64)
    assert follow_best(codes, distance).leader.tolist() == follow_best_slowly(codes, distance).tolist()


@pytest.mark.parametrize("distance", [0, 1, 2, 3, 5, 8, 10, MAX_DISTANCE])
def test_many_pictures_follow_as_if_compared_one_by_one(distance: int) -> None:
    generator = np.random.default_rng(distance)
    base = random_codes(generator, 1000)
    crowd = flipped(generator, np.full(1200, base[0]), 6)
    copies = [flipped(generator, base, bits) for bits in (distance, distance + 2)]
    codes = generator.permutation(np.concatenate([base, *copies, crowd, base[:100]]))
    found = follow_best(codes, distance)
    assert found.left_out == 0
    assert (found.leader == follow_best_slowly(codes, distance)).all()


@pytest.mark.slow
def test_halves_that_are_settled_one_after_the_other_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    codes = generator.permutation(flipped(generator, np.repeat(random_codes(generator, 100), 10), 5))
    expected = follow_best_slowly(codes, 6)
    monkeypatch.setattr(near_duplicates, "_PAIRS_EACH", 0)
    monkeypatch.setattr(near_duplicates, "_DIRECT", 64)
    monkeypatch.setattr(near_duplicates, "_FEW_KEPT", 32)
    assert (follow_best(codes, 6).leader == expected).all()


@pytest.mark.slow
@pytest.mark.parametrize("bits", [0, 6, 20])
def test_a_crowd_of_nearly_equal_hashes_is_no_quadratic_work(bits: int) -> None:
    generator = np.random.default_rng(bits)
    codes = flipped(generator, np.full(60_000, random_codes(generator, 1)), bits)
    leader = follow_best(codes, 8).leader
    assert (leader[leader] == leader).all()
    assert (leader <= np.arange(len(codes))).all()
    assert hamming(codes, codes[leader]).max() <= 8
    kept = codes[np.unique(leader)][:500]
    apart = hamming(kept[:, None], kept[None, :])[np.triu_indices(len(kept), 1)]
    assert apart.size == 0 or apart.min() > 8


@pytest.mark.slow
def test_comparisons_that_are_left_out_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_COMPARED_EACH", 1)
    monkeypatch.setattr(near_duplicates, "_FEW_KEPT", 32)
    generator = np.random.default_rng(0)
    codes = random_codes(generator, 20_000) & ~np.uint64(0x9249249249249249)  # one band is 0 in all of them
    found = follow_best(codes, 4)
    assert found.left_out > 0
    assert hamming(codes, codes[found.leader]).max() <= 4


def test_nothing_is_joined_through_a_third_picture() -> None:
    chain = np.array([0, 0b111, 0b111111, 0b111111111], dtype=np.uint64)
    assert follow_best(chain, 3).leader.tolist() == [0, 0, 2, 2]


@settings(max_examples=30)
@given(st.integers(0, 10**9))
def test_the_default_distance_falls_as_the_collection_grows(pictures: int) -> None:
    assert 4 <= default_distance(10 * pictures) <= default_distance(pictures) <= 10


def test_the_default_distances_are_those_in_the_docs() -> None:
    found = [default_distance(pictures) for pictures in (42_000, 44_000, 1_300_000, 1_500_000, 73_000_000, 10**8)]
    assert found == [10, 8, 8, 6, 6, 4]


@pytest.fixture(scope="module")
def families() -> dict[str, Codes]:
    """The hashes of all photos as they are, and of each kind of copy."""
    originals = photos()
    made = {name: hashes([copy(photo) for photo in originals]) for name, copy in COPIES.items()}
    return {"as it is": hashes(originals), **made}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("copies", "distance", "recall"),
    [
        ([*RESIZED, *RECOMPRESSED], 6, 0.99),
        (list(COPIES), 8, 0.95),
        (list(CROPPED), default_distance(400), 0.94),
        (list(COPIES), default_distance(720), 0.975),
    ],
    ids=["resized or recompressed", "all, of a million", "cropped", "all"],
)
def test_copies_of_real_photos_are_found_and_different_photos_stay(
    families: dict[str, Codes], copies: list[str], distance: int, recall: float
) -> None:
    codes = np.stack([families["as it is"], *(families[name] for name in copies)], axis=1)
    found = np.array([recall_and_precision(codes, distance, seed) for seed in range(10)])
    assert found[:, 0].mean() >= recall
    assert found[:, 1].min() >= 0.99
