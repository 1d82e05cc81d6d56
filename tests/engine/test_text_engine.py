from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.full_forward import cut, greedy_tokens, read_pixels
from support.golden import golden_answers, golden_checkpoint, golden_images
from support.tiny_checkpoints import OTHER_NETWORKS, change_tensors, copy_checkpoint, write_random_checkpoint

from artimuse_actor import ArtiMuse
from artimuse_actor.checkpoint.checkpoint import SINGLE_FILE
from artimuse_actor.engine.attention import GatheredPages
from artimuse_actor.engine.kv_cache import PagedKVCache
from artimuse_actor.engine.schedule import AnsweredImage, GeneratedText, TextSequence
from artimuse_actor.engine.scoring import expected_level
from artimuse_actor.engine.text_budget import CPU_SEQUENCES
from artimuse_actor.engine.text_engine import TextEngine
from artimuse_actor.errors import RunError
from artimuse_actor.images.options import Pixels
from artimuse_actor.protocol.prompts import turn_end_id
from artimuse_actor.protocol.tokenizer import load_tokenizer

TOLERANCE_POINTS = 1e-3
GOLDEN_TOKENS = 48
LIMIT = 24
STREAM_PICTURES = (0, 4)
NOTHING_STOPS = -1


def pictures(count: int = 13) -> list[Pixels]:
    return [read_pixels(path) for path in golden_images()[:count]]


def new_engine(model: ArtiMuse, sequences: int, max_new_tokens: int = LIMIT) -> TextEngine:
    return model.describer(sequences=sequences, max_new_tokens=max_new_tokens).engine


def work_off(engine: TextEngine) -> list[AnsweredImage]:
    answered: list[AnsweredImage] = []
    while engine.busy:
        answered += engine.step()
    return answered


def answer(engine: TextEngine, images: Iterable[Pixels] | Mapping[Any, Pixels]) -> dict[Any, AnsweredImage]:
    """All of them, queued at once; their keys, or else their places."""
    named = images if isinstance(images, Mapping) else dict(enumerate(images))
    for key, pixels in named.items():
        engine.add(key, pixels)
    answered = work_off(engine)
    assert sorted(image.key for image in answered) == sorted(named)  # each once
    return {image.key: image for image in answered}


def texts_of(answered: Mapping[Any, AnsweredImage]) -> dict[Any, tuple[GeneratedText, ...]]:
    return {key: image.texts for key, image in answered.items()}


def stop_at(monkeypatch: pytest.MonkeyPatch, token_id: int) -> None:
    """Let another token end the texts."""
    monkeypatch.setattr("artimuse_actor.loaded_model.turn_end_id", lambda _: token_id)


def watch_rows(model: ArtiMuse, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of sequences in flight at each step from now on."""
    rows: list[int] = []
    decode_step = model.model.decode_step

    def watched(token_ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        rows.append(len(token_ids))
        return decode_step(token_ids, *rest)

    monkeypatch.setattr(model.model, "decode_step", watched)
    return rows


def assert_all_pages_are_free(engine: TextEngine) -> None:
    cache = engine._schedule.cache
    pages = cache.pages
    held = cache.allocate(pages - 1)
    assert cache.pages == pages  # else it had to grow: some were still held
    assert sorted(held) == list(range(1, pages))  # none twice, the scratch page not among them
    cache.release(held)


Streams = Mapping[int, Mapping[str, list[int]]]


@pytest.fixture(scope="module")
def streams(models: dict[str, ArtiMuse]) -> Streams:
    """Picture → title → the tokens that the slow loop gives if nothing stops it."""
    model = models["artimuse"]
    return {
        picture: {
            title: greedy_tokens(model, question, pictures()[picture], LIMIT)
            for title, question in model.protocol.text_questions.items()
        }
        for picture in STREAM_PICTURES
    }


def slow_texts(streams: Streams, stop_id: int, limit: int = LIMIT) -> dict[int, tuple[GeneratedText, ...]]:
    return {
        picture: tuple(cut(tokens, stop_id, limit) for tokens in by_title.values())
        for picture, by_title in streams.items()
    }


@pytest.fixture(scope="module")
def stop_id() -> int:
    return turn_end_id(load_tokenizer(golden_checkpoint("artimuse")))


@pytest.fixture(scope="module")
def eager_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden network, more eager to stop: its texts end by themselves after 0 to 52 tokens."""
    folder = copy_checkpoint(tmp_path_factory.mktemp("eager") / "checkpoint")
    head = load_file(folder / SINGLE_FILE)["language_model.lm_head.weight"]
    head[turn_end_id(load_tokenizer(folder))] *= 1.5
    change_tensors(folder, language_model__lm_head__weight=head)
    return folder


@pytest.fixture(scope="module")
def eager(eager_checkpoint: Path) -> ArtiMuse:
    return ArtiMuse.load(eager_checkpoint, protocol="artimuse")


Texts = Mapping[int, tuple[GeneratedText, ...]]


@pytest.fixture(scope="module")
def wanted(models: dict[str, ArtiMuse]) -> Texts:
    """Texts about six pictures with memory for all."""
    return texts_of(answer(new_engine(models["artimuse"], 16), pictures(6)))


@pytest.mark.slow
@pytest.mark.parametrize(("sequences", "images"), [(1, 2), (5, 13), (32, 13)])
def test_every_text_and_score_is_that_of_the_published_code(
    models: dict[str, ArtiMuse], sequences: int, images: int
) -> None:
    described = models["artimuse"].describe(golden_images()[:images], max_new_tokens=GOLDEN_TOKENS, sequences=sequences)
    answers = golden_answers("artimuse")[:images]
    assert len(described) == len(answers)
    for description, golden in zip(described, answers, strict=True):
        assert dict(description.texts) == golden["texts"], golden["image"]
        assert list(description.texts) == list(golden["texts"])
        assert description.score == pytest.approx(golden["scores"]["score"]["score"], abs=TOLERANCE_POINTS)
        assert description.score_std == pytest.approx(golden["scores"]["score"]["std"], abs=TOLERANCE_POINTS)
        for title, tokens in description.token_counts.items():
            assert 0 <= tokens <= GOLDEN_TOKENS
            assert description.finish_reasons[title] == ("length" if tokens == GOLDEN_TOKENS else "stop"), title
    counts = [tokens for description in described for tokens in description.token_counts.values()]
    assert images < 13 or {0, 1, GOLDEN_TOKENS} < set(counts)  # of every kind


@pytest.mark.slow
def test_texts_of_unipercept_equal_a_slow_greedy_loop(
    models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, limit = models["unipercept"], 9  # of its texts most end before it
    images = {place: pictures()[place] for place in (0, 4)}
    slow = {
        (place, question): greedy_tokens(model, question, pixels, limit)
        for place, pixels in images.items()
        for question in model.protocol.text_questions.values()
    }
    for stop in (turn_end_id(load_tokenizer(golden_checkpoint("unipercept"))), NOTHING_STOPS):
        stop_at(monkeypatch, stop)
        answered = answer(new_engine(model, 7, limit), images)
        for place, image in answered.items():
            for text, question in zip(image.texts, model.protocol.text_questions.values(), strict=True):
                assert text == cut(slow[place, question], stop, limit)
            assert image.probabilities is not None
            golden = [score["score"] for score in golden_answers("unipercept")[place]["scores"].values()]
            np.testing.assert_allclose(expected_level(image.probabilities).numpy(), golden, atol=TOLERANCE_POINTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deeper", "one layer each", "all heads share their keys"])
def test_texts_equal_a_slow_greedy_loop_in_networks_of_other_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    model = ArtiMuse.load(write_random_checkpoint(tmp_path / "checkpoint", **OTHER_NETWORKS[name]), protocol="artimuse")
    stop_at(monkeypatch, NOTHING_STOPS)
    questions = list(model.protocol.text_questions.items())[:2]
    describer = model.describer(attributes=[title for title, _ in questions], sequences=3, max_new_tokens=20)
    answered = answer(describer.engine, pictures(2))
    for place, pixels in enumerate(pictures(2)):
        slow = [greedy_tokens(model, question, pixels, 20) for _, question in questions]
        assert [list(text.token_ids) for text in answered[place].texts] == slow
    assert answered[0].texts != answered[1].texts  # a network that ignores the picture would prove nothing


@pytest.mark.slow
@pytest.mark.parametrize("sequences", [3, 16])
def test_texts_that_end_at_once_at_the_limit_and_anywhere_between_come_back_in_their_places(
    models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch, streams: Streams, stop_id: int, sequences: int
) -> None:
    firsts = [tokens[0] for by_title in streams.values() for tokens in by_title.values()]
    stops = [stop_id, max(firsts, key=firsts.count), firsts[-1], streams[0]["Overall Gestalt"][LIMIT - 1]]
    lengths: list[int] = []
    for stop in stops:
        stop_at(monkeypatch, stop)
        engine = new_engine(models["artimuse"], sequences)
        answered = answer(engine, {picture: pictures()[picture] for picture in STREAM_PICTURES})
        assert texts_of(answered) == slow_texts(streams, stop)
        assert_all_pages_are_free(engine)
        lengths += [len(text.token_ids) for image in answered.values() for text in image.texts]
    assert lengths.count(0) >= 4
    assert LIMIT - 1 in lengths  # the last token that was allowed ended it
    assert LIMIT in lengths
    assert len(set(lengths)) > 10


@pytest.mark.slow
def test_images_whose_texts_are_all_empty_and_such_as_never_stop_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_checkpoint(tmp_path / "checkpoint")
    change_tensors(folder, language_model__lm_head__weight=torch.zeros(1155, 96))  # of equals, the first token wins
    model = ArtiMuse.load(folder, protocol="artimuse")
    for stop, text in ((0, GeneratedText((), "stop")), (1, GeneratedText((0,) * LIMIT, "length"))):
        stop_at(monkeypatch, stop)
        engine = new_engine(model, 6)
        assert texts_of(answer(engine, pictures(3))) == dict.fromkeys(range(3), (text,) * 8)
        assert_all_pages_are_free(engine)


@pytest.mark.parametrize("limit", [1, 2, 17])
def test_a_lower_limit_cuts_the_same_texts_earlier(
    models: dict[str, ArtiMuse], streams: Streams, stop_id: int, limit: int
) -> None:
    engine = new_engine(models["artimuse"], 6, limit)
    answered = answer(engine, {picture: pictures()[picture] for picture in STREAM_PICTURES})
    assert texts_of(answered) == slow_texts(streams, stop_id, limit)


@pytest.mark.parametrize("page_tokens", [1, 7, 311, 312, 1000])
def test_texts_do_not_depend_on_the_size_of_pages(
    models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch, streams: Streams, stop_id: int, page_tokens: int
) -> None:
    # The prefix of an image has 311 tokens: a multiple of the page, less than one, or a few beside whole ones.
    monkeypatch.setattr(GatheredPages, "page_tokens", page_tokens)
    engine = new_engine(models["artimuse"], 7)
    answered = answer(engine, {picture: pictures()[picture] for picture in STREAM_PICTURES})
    assert (engine._schedule.cache.page_tokens, engine._prefix) == (page_tokens, 311)
    assert texts_of(answered) == slow_texts(streams, stop_id)
    assert_all_pages_are_free(engine)


@pytest.mark.slow
@pytest.mark.parametrize(("sequences", "admission"), [(1, 1), (32, 1), (48, 3), (200, 16)])
def test_the_order_of_images_and_how_many_are_admitted_at_once_change_no_text(
    models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch, wanted: Texts, sequences: int, admission: int
) -> None:
    model, images = models["artimuse"], pictures(4)
    monkeypatch.setattr(model, "batch_size", admission)
    engine = new_engine(model, sequences)
    assert engine.max_admission == min(admission, max(1, sequences // 16))
    answered = answer(engine, {place: images[place] for place in (3, 1, 0, 2)})
    assert texts_of(answered) == {place: wanted[place] for place in range(4)}


@pytest.mark.slow
def test_images_may_be_added_while_others_are_worked_off_and_by_another_thread(
    models: dict[str, ArtiMuse], wanted: Texts
) -> None:
    images = pictures(6)
    engine, answered = new_engine(models["artimuse"], 16), list[AnsweredImage]()

    def add_all() -> None:
        for place, pixels in enumerate(images):
            engine.add(place, pixels)
            time.sleep(0.01)

    adder = threading.Thread(target=add_all)
    adder.start()
    while adder.is_alive() or engine.busy:
        answered += engine.step()
    assert {image.key: image.texts for image in answered} == wanted
    assert len(answered) == len(images)
    assert engine.step() == []  # nothing to do is no error


def test_pixels_may_be_a_read_only_view_of_something_larger(models: dict[str, ArtiMuse], wanted: Texts) -> None:
    # An Arrow block, as a rule.
    block = np.stack(pictures(4))[::2]
    block.flags.writeable = False
    engine = new_engine(models["artimuse"], 16)
    answered = answer(engine, block)
    assert [answered[0].texts, answered[1].texts] == [wanted[0], wanted[2]]


@pytest.mark.slow
def test_images_that_are_not_scored_have_texts_only(
    models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models["unipercept"]
    monkeypatch.setattr(model, "batch_size", 3)
    scored = [True, False, True, False, False, False]  # of one prefill all, some or none
    engine = new_engine(model, 80, 5)
    assert engine.max_admission == 3
    for place, pixels in enumerate(pictures(6)):
        engine.add(place, pixels, scored=scored[place])
    answered = {image.key: image for image in work_off(engine)}
    wanted = answer(new_engine(model, 80, 5), pictures(6))
    assert texts_of(answered) == texts_of(wanted)
    for place in range(6):
        probabilities = answered[place].probabilities
        assert (probabilities is not None) == scored[place]
        if probabilities is not None:
            torch.testing.assert_close(probabilities, wanted[place].probabilities)


def in_flight(durations: Iterable[int], places: int) -> list[int]:
    """Sequences at each step if each free place goes to the next one at once."""
    waiting, live, rows = deque(durations), list[int](), []
    while waiting or live:
        while waiting and len(live) < places:
            live.append(waiting.popleft())
        rows.append(len(live))
        live = [left - 1 for left in live if left > 1]
    return rows


def steps_of_each(engine: TextEngine, answered: Mapping[int, AnsweredImage]) -> list[int]:
    """Decode steps that each sequence needs, in the order of the images: its question's tokens, then its text's."""
    return [
        len(tail) + len(text.token_ids) - (text.finish_reason == "length")  # the last token of a cut text is not read
        for _, image in sorted(answered.items())
        for tail, text in zip(engine._text_tails, image.texts, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("sequences", [3, 16, 40])
def test_a_place_is_refilled_in_the_step_after_its_text_has_ended(
    models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch, sequences: int
) -> None:
    rows = watch_rows(models["artimuse"], monkeypatch)
    engine = new_engine(models["artimuse"], sequences)
    answered = answer(engine, pictures(7))
    durations = steps_of_each(engine, answered)
    assert len(durations) == 7 * 8
    assert rows == in_flight(durations, sequences)
    assert max(rows) == sequences
    # Without a free place it could not be fewer; the last texts leave places that nobody waits for.
    assert sum(durations) / sequences <= len(rows) <= sum(durations) / sequences + max(durations)


@pytest.mark.slow
def test_described_one_by_one_images_fill_all_places_too(
    models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models["artimuse"]
    engine = new_engine(model, 16)
    best = in_flight(steps_of_each(engine, answer(engine, pictures(7))), 16)
    rows = watch_rows(model, monkeypatch)
    model.describe(golden_images()[:7], max_new_tokens=LIMIT, sequences=16)
    assert sum(rows) == sum(best)
    assert max(rows) == 16
    # The second image is read when the first is in flight; and the last texts leave places that nobody waits for.
    assert rows[:1] == [8]
    assert rows[1 : best.count(16)] == [16] * (best.count(16) - 1)
    assert len(rows) <= len(best) + 1


def test_sequences_about_one_image_share_its_pages(models: dict[str, ArtiMuse]) -> None:
    engine = new_engine(models["artimuse"], 8)
    engine.add(0, pictures()[0])
    engine.step()
    cache = engine._schedule.cache
    assert cache.pages - 1 - cache.free_pages == 311 // cache.page_tokens + 1 + 8  # the stem, and one of each
    work_off(engine)
    assert_all_pages_are_free(engine)


@pytest.mark.slow
def test_the_cache_grows_with_what_was_generated_and_not_with_what_might_be(eager: ArtiMuse) -> None:
    pages = []
    for limit in (64, 8192):
        engine = new_engine(eager, 16, limit)
        answered = answer(engine, pictures(7))
        assert max(len(text.token_ids) for image in answered.values() for text in image.texts) < 64
        pages.append(engine._schedule.cache.pages)
    assert pages[0] == pages[1]
    # 16 sequences of at most two images each, with 9 pages of an image and at most 4 of their own; and a quarter more.
    assert pages[0] <= 1.25 * (16 * 4 + 4 * 9) + 32


def run_out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def limit_rows(model: ArtiMuse, monkeypatch: pytest.MonkeyPatch, *, rows: int = 10**6, images: int = 10**6) -> None:
    """The device runs out of memory, as a GPU does, in steps or prefills of more than so many."""
    decode_step, encode_images = model.model.decode_step, model.model.encode_images

    def limited_step(token_ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(token_ids) > rows:
            run_out_of_memory()
        return decode_step(token_ids, *rest)

    def limited_encoding(pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > images:
            run_out_of_memory()
        return encode_images(pixels)

    monkeypatch.setattr(model.model, "decode_step", limited_step)
    monkeypatch.setattr(model.model, "encode_images", limited_encoding)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "left"), [(1, 1), (11, 10)])
def test_a_device_that_takes_fewer_rows_gets_fewer_and_no_text_is_lost_or_changed(
    models: dict[str, ArtiMuse],
    monkeypatch: pytest.MonkeyPatch,
    wanted: Texts,
    rows: int,
    left: int,
) -> None:
    limit_rows(models["artimuse"], monkeypatch, rows=rows)
    tried = watch_rows(models["artimuse"], monkeypatch)
    engine = new_engine(models["artimuse"], 40)
    assert texts_of(answer(engine, pictures(6))) == wanted
    assert engine.sequences == left
    assert [count for count in tried if count > rows] == [size for size in (40, 20, 10, 5, 2) if size > rows]
    assert_all_pages_are_free(engine)


def test_a_device_that_takes_fewer_images_at_once_gets_fewer_and_no_text_is_lost_or_changed(
    models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch, wanted: Texts
) -> None:
    model = models["artimuse"]
    monkeypatch.setattr(model, "batch_size", 6)
    limit_rows(model, monkeypatch, images=1)
    engine = new_engine(model, 96)
    assert engine.max_admission == 6
    assert texts_of(answer(engine, pictures(6))) == wanted
    assert (engine.sequences, engine.max_admission) == (96, 1)  # a prefill that is too large costs no sequence
    assert_all_pages_are_free(engine)


@pytest.mark.slow
def test_a_prefill_that_does_not_fit_beside_the_last_texts_of_others_gets_smaller_until_it_does(
    models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch, wanted: Texts
) -> None:
    # Few texts are in flight at that moment: that they are few is no reason to give up.
    model, images = models["artimuse"], pictures(6)
    monkeypatch.setattr(model, "batch_size", 6)
    engine = new_engine(model, 96)
    engine.add(0, images[0])
    answered: list[AnsweredImage] = []
    while not engine._schedule.live or len(engine._schedule.live) > 2:
        answered += engine.step()
    for place in range(1, 6):
        engine.add(place, images[place])
    limit_rows(model, monkeypatch, images=1)
    answered += work_off(engine)
    assert {image.key: image.texts for image in answered} == wanted
    assert engine.max_admission == 1
    assert_all_pages_are_free(engine)


@pytest.mark.slow
def test_a_picture_that_overflows_spoils_no_text_of_others(
    models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch, wanted: Texts
) -> None:
    model, images = models["artimuse"], pictures(6)
    encode, spoilt = model.model.encode_images, torch.tensor(images[0])

    def overflow(pixels: torch.Tensor) -> torch.Tensor:
        tokens = encode(pixels)
        tokens[(pixels == spoilt).flatten(1).all(dim=1)] = torch.nan
        return tokens

    monkeypatch.setattr(model.model, "encode_images", overflow)
    found = texts_of(answer(new_engine(model, 8), images))
    assert found[0] != wanted[0]
    assert {place: found[place] for place in range(1, 6)} == {place: wanted[place] for place in range(1, 6)}


def test_a_device_without_room_for_an_engine_is_one_sentence(
    models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(pages: int | None) -> PagedKVCache:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(models["artimuse"].model, "new_cache", full)
    with pytest.raises(RunError, match=r"^Texts do not fit into the free memory of cpu\."):
        models["artimuse"].describer()


@pytest.mark.parametrize("limits", [{"rows": 0}, {"images": 0}], ids=["no row", "no image"])
def test_a_device_without_room_for_one_text_stops_the_run_with_a_sentence(
    models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch, limits: Mapping[str, int]
) -> None:
    limit_rows(models["artimuse"], monkeypatch, **limits)
    engine = new_engine(models["artimuse"], 16)
    with pytest.raises(RunError, match=r"^One text does not fit into the free memory of cpu\. Stop what else"):
        answer(engine, pictures(3))
    assert 1 in (engine.sequences, engine.max_admission)


OPERATIONS = ("encode_images", "extend", "last_hidden", "decode_step", "next_tokens", "write_prefix", "new_zeros")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_wherever_the_memory_runs_out_no_text_is_lost_or_changed_and_no_page_leaks(
    models: dict[str, ArtiMuse],
    monkeypatch: pytest.MonkeyPatch,
    wanted: Texts,
    seed: int,
) -> None:
    model, chance = models["artimuse"].model, random.Random(seed)
    monkeypatch.setattr("artimuse_actor.engine.kv_cache._MIN_GROWTH_PAGES", 1)
    monkeypatch.setattr(models["artimuse"], "batch_size", 3)
    engine = new_engine(models["artimuse"], 64)
    failed: list[str] = []

    def make_fail(owner: Any, name: str) -> None:
        operation = getattr(owner, name)

        def failing(*arguments: Any, **settings: Any) -> Any:
            done = operation(*arguments, **settings)  # what it wrote before it failed stays
            # Where there is no way out any more, the next failure ends the run.
            if (
                engine._way_out(True)
                and engine._way_out(False)
                and chance.random() < (0.02 if name in OPERATIONS[3:5] else 0.1)
            ):
                failed.append(name)
                run_out_of_memory()
            return done

        monkeypatch.setattr(owner, name, failing)

    for name in OPERATIONS[:5]:
        make_fail(model, name)
    make_fail(PagedKVCache, "write_prefix")
    make_fail(torch.Tensor, "new_zeros")
    assert texts_of(answer(engine, pictures(6))) == wanted
    assert failed
    assert_all_pages_are_free(engine)


@pytest.mark.slow
def test_memory_that_runs_out_now_and_then_costs_sequences_but_not_their_texts(
    models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch, wanted: Texts
) -> None:
    # The youngest are put back, are read again from their question on, and go first when places are free.
    model = models["artimuse"]
    engine = new_engine(model, 40)
    for place, pixels in enumerate(pictures(6)):
        engine.add(place, pixels)
    answered: list[AnsweredImage] = []
    for _ in range(15):
        answered += engine.step()

    def names(sequences: Iterable[TextSequence]) -> list[tuple[Any, int]]:
        return [(sequence.image.key, sequence.question) for sequence in sequences]

    before = names(engine._schedule.live)
    assert len(before) > 30
    with monkeypatch.context() as patched:
        limit_rows(model, patched, rows=0)
        assert engine.step() == []
    half = len(before) // 2
    assert engine.sequences == half
    assert names(engine._schedule.live) == before[:half]
    assert names(engine._schedule.waiting)[: len(before) - half] == before[half:]
    answered += work_off(engine)
    assert {image.key: image.texts for image in answered} == wanted
    assert_all_pages_are_free(engine)


def test_on_a_cpu_sixteen_sequences_are_in_flight(models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch) -> None:
    model = models["artimuse"]
    rows = watch_rows(model, monkeypatch)
    model.describe(golden_images()[:4], max_new_tokens=4)
    assert max(rows) == CPU_SEQUENCES == 16
