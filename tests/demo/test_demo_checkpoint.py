"""The demo checkpoint: it ranks drawn pictures it has never seen, and only if everything is done as published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from support.paths import REPO

from artimuse_actor import ArtiMuse
from artimuse_actor.checkpoint.checkpoint import Checkpoint
from artimuse_actor.engine.weights import load_network
from artimuse_actor.protocol.prompts import level_ids
from artimuse_actor.protocol.protocols import ARTIMUSE, LEVELS
from artimuse_actor.protocol.tokenizer import load_tokenizer
from jobs.demo.pictures import MAX_SIDE, MIN_SIDE, Picture, combine, make_picture
from jobs.demo.training.mistakes import (
    LEVEL_MISTAKES,
    PIXEL_MISTAKES,
    PROMPT,
    PROMPT_MISTAKES,
    RESIZE_MISTAKES,
    Mistake,
    measure,
)

CHECKPOINT = REPO / "jobs" / "demo" / "checkpoint"
FIRST_SEED = 700_000  # training draws its pictures from seed 0 on
PICTURES = 60
FEW = 24  # levels in another order take SRCC so far down that this many show it
FEWEST = 10  # another prompt or normalisation

Measure = Callable[[Mistake, int], float]


@dataclass(frozen=True)
class Library:
    """Pictures and the ground truth of each."""

    pictures: list[Picture]

    @property
    def points(self) -> list[float]:
        return [picture.gt_score for picture in self.pictures]


@pytest.fixture(scope="session")
def library() -> Library:
    """Pictures that the demo checkpoint was not trained on."""
    return Library([make_picture(FIRST_SEED + n) for n in range(PICTURES)])


@pytest.fixture(scope="session")
def srcc_with(library: Library) -> Measure:
    """SRCC of the demo checkpoint on so many pictures when one step is done wrongly."""
    checkpoint = Checkpoint(CHECKPOINT)
    tokenizer = load_tokenizer(CHECKPOINT)
    network = load_network(checkpoint, device=torch.device("cpu"), dtype=torch.float32)
    return lambda mistake, pictures: measure(network, tokenizer, library.pictures[:pictures], mistake)


@pytest.mark.slow
def test_the_demo_checkpoint_ranks_pictures_it_has_never_seen(library: Library) -> None:
    model = ArtiMuse.load(CHECKPOINT, protocol="artimuse", device="cpu", dtype="float32", batch_size=4)
    scores = [result.score for result in model.score([picture.image for picture in library.pictures])]
    assert stats.spearmanr(scores, library.points).statistic >= 0.9
    assert np.abs(np.array(scores) - library.points).mean() < 10


@pytest.mark.slow
@pytest.mark.parametrize("pictures", [FEWEST, FEW])
def test_scored_without_a_mistake_the_few_pictures_are_ranked_too(srcc_with: Measure, pictures: int) -> None:
    assert srcc_with(Mistake("none"), pictures) >= 0.9


@pytest.mark.parametrize("mistake", PROMPT_MISTAKES, ids=lambda mistake: mistake.name)
def test_another_prompt_does_not_rank(srcc_with: Measure, mistake: Mistake) -> None:
    assert mistake.prompt != PROMPT
    assert srcc_with(mistake, FEWEST) < (-0.8 if mistake.trained else 0.8)


@pytest.mark.parametrize("mistake", PIXEL_MISTAKES, ids=lambda mistake: mistake.name)
def test_another_normalisation_does_not_rank(srcc_with: Measure, mistake: Mistake) -> None:
    assert srcc_with(mistake, FEWEST) < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("mistake", RESIZE_MISTAKES, ids=lambda mistake: mistake.name)
def test_keeping_the_aspect_ratio_does_not_rank(srcc_with: Measure, mistake: Mistake) -> None:
    # Two of the three terms survive it, so this takes all pictures to see.
    assert srcc_with(mistake, PICTURES) < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("mistake", LEVEL_MISTAKES, ids=lambda mistake: mistake.name)
def test_levels_in_another_order_do_not_rank(srcc_with: Measure, mistake: Mistake) -> None:
    assert sorted(mistake.levels) == sorted(LEVELS)
    assert srcc_with(mistake, FEW) < 0.8


def test_the_demo_checkpoint_takes_at_most_four_megabytes() -> None:
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) <= 4_000_000


def test_every_level_is_one_token_and_any_text_can_be_written() -> None:
    tokenizer = load_tokenizer(CHECKPOINT)
    vocab_size = Checkpoint(CHECKPOINT).config.language.vocab_size
    assert tokenizer.get_vocab_size() == vocab_size
    assert len(set(level_ids(tokenizer, ARTIMUSE, CHECKPOINT, vocab_size))) == 101
    assert all(len(tokenizer.encode(level)) == 1 for level in LEVELS)
    text = "Héllo, 世界 ✨ \x00\t\n"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_picture_is_the_same_each_time_and_another_for_each_seed() -> None:
    first, again, other = make_picture(3), make_picture(3), make_picture(4)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.gt_score == again.gt_score
    assert (first.image.size, first.image.tobytes()) != (other.image.size, other.image.tobytes())


def test_ground_truth_is_in_points_and_spreads_over_most_of_the_scale(library: Library) -> None:
    points = np.array(library.points)
    assert points.min() >= 0
    assert points.max() <= 100
    assert np.percentile(points, 5) < 20
    assert np.percentile(points, 95) > 80
    assert (combine(0, 0, 0), combine(1, 1, 1)) == (0, 100)


def test_no_term_dominates_the_ground_truth(library: Library) -> None:
    for term in ("contrast", "colour", "composition"):
        values = [getattr(picture, term) for picture in library.pictures]
        assert 0 <= min(values) <= max(values) <= 1
        assert 0.3 < stats.spearmanr(values, library.points).statistic < 0.75


def test_pictures_vary_in_size_and_shape(library: Library) -> None:
    sides = np.array([picture.image.size for picture in library.pictures])
    assert sides.min() >= MIN_SIDE
    assert sides.max() <= MAX_SIDE
    ratios = sides[:, 0] / sides[:, 1]
    assert ratios.min() < 0.6
    assert ratios.max() > 1.6
