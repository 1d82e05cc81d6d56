from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from support.full_forward import read_pixels
from support.golden import golden_answers, golden_checkpoint, golden_images
from tokenizers import Tokenizer

from artimuse_actor import ArtiMuse, DecodeOptions, ImageDescription, ImageError, ImageScore
from artimuse_actor.engine.describe import Describer, to_text
from artimuse_actor.errors import NoNumber, RunError, UsageError
from artimuse_actor.images.inputs import ImageInput
from artimuse_actor.protocol.tokenizer import load_tokenizer

GOLDEN_TOKENS = 48
TITLES = (
    "Composition & Design",
    "Visual Elements & Structure",
    "Technical Execution",
    "Originality & Creativity",
    "Theme & Communication",
    "Emotion & Viewer Response",
    "Overall Gestalt",
    "Comprehensive Evaluation",
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(golden_checkpoint("artimuse"))


def golden_texts(count: int = 13) -> list[dict[str, str]]:
    return [answer["texts"] for answer in golden_answers("artimuse")[:count]]


def texts_of(described: Iterable[ImageDescription]) -> list[dict[str, str]]:
    return [dict(description.texts) for description in described]


def work_off(describer: Describer) -> list[tuple[Any, ImageDescription]]:
    finished: list[tuple[Any, ImageDescription]] = []
    while describer.engine.busy:
        finished += describer.step()
    return finished


@pytest.mark.slow
def test_one_picture_gives_one_description_and_many_a_list_in_their_order(models: dict[str, ArtiMuse]) -> None:
    model, paths = models["artimuse"], golden_images()
    one = model.describe(paths[4], max_new_tokens=GOLDEN_TOKENS)
    assert isinstance(one, ImageDescription)
    assert isinstance(one, ImageScore)
    assert dict(one.texts) == golden_texts()[4]
    alone = model.describe([paths[4]], max_new_tokens=GOLDEN_TOKENS)
    assert isinstance(alone, list)
    assert texts_of(alone) == [golden_texts()[4]]
    order = [4, 0, 6, 4, 2]
    many = model.describe((paths[place] for place in order), max_new_tokens=GOLDEN_TOKENS)
    assert texts_of(many) == [golden_texts()[place] for place in order]
    assert model.describe([]) == []


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_network_that_gives_no_numbers_gives_no_texts(
    models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    model = models["artimuse"]
    decode = model.model.decode_step
    monkeypatch.setattr(model.model, "decode_step", lambda *read: decode(*read) * bad)
    describer = model.describer(max_new_tokens=4)
    for scored in (False, True):  # the scores are read before the first token
        describer.add("a", read_pixels(golden_images()[0]), scored=scored)
        with pytest.raises(NoNumber):
            work_off(describer)


@pytest.mark.slow
def test_the_scores_of_a_description_are_those_of_score(models: dict[str, ArtiMuse]) -> None:
    for model in models.values():
        described = model.describe(golden_images()[:3], max_new_tokens=1)
        for description, score in zip(described, model.score(golden_images()[:3]), strict=True):
            assert description.scores == pytest.approx(score.scores, abs=1e-3)
            assert description.stds == pytest.approx(score.stds, abs=1e-3)
            assert description.score == pytest.approx(score.score, abs=1e-3)
            for question, distribution in score.distributions.items():
                np.testing.assert_allclose(description.distributions[question], distribution, atol=1e-5)
            assert list(description.texts) == list(model.protocol.text_questions)


@pytest.mark.slow
def test_paths_strings_uris_bytes_pictures_and_arrays_are_described_the_same(models: dict[str, ArtiMuse]) -> None:
    model, path = models["artimuse"], golden_images()[3]
    with Image.open(path) as opened:
        forms: list[ImageInput] = [path, str(path), path.as_uri(), path.read_bytes(), opened, np.asarray(opened)]
        described = [model.describe(form, max_new_tokens=6, sequences=8) for form in forms]
        together = model.describe(forms, max_new_tokens=6)
    for description in (*described, *together):
        assert description.texts == described[0].texts
        assert description.score == pytest.approx(described[0].score, abs=1e-3)


def test_decode_options_reach_the_decoder(models: dict[str, ArtiMuse]) -> None:
    model, path = models["artimuse"], golden_images()[10]
    assert path.name == "10_exif6.jpg"
    turned = model.describe(path, max_new_tokens=6, options=DecodeOptions(exif_rotate=True))
    assert turned.texts != model.describe(path, max_new_tokens=6).texts
    with pytest.raises(ImageError, match="the limit is 100"):
        model.describe(path, options=DecodeOptions(max_bytes=100))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attributes", "titles"),
    [
        (["Overall Gestalt"], ["Overall Gestalt"]),
        (["emotion_viewer_response"], ["Emotion & Viewer Response"]),
        (
            ["COMPREHENSIVE evaluation", "Composition_Design", "overall gestalt", "Overall Gestalt"],
            ["Composition & Design", "Overall Gestalt", "Comprehensive Evaluation"],
        ),
        (list(TITLES[::-1]), list(TITLES)),
    ],
    ids=["by title", "by column", "in any case, twice", "all, turned round"],
)
def test_some_attributes_have_the_same_texts_as_within_all_eight(
    models: dict[str, ArtiMuse], attributes: Sequence[str], titles: Sequence[str]
) -> None:
    described = models["artimuse"].describe(
        golden_images()[:3], attributes=attributes, max_new_tokens=GOLDEN_TOKENS, sequences=8
    )
    for description, golden, answer in zip(described, golden_texts(), golden_answers("artimuse"), strict=False):
        assert list(description.texts) == titles
        assert dict(description.texts) == {title: golden[title] for title in titles}
        assert list(description.finish_reasons) == list(description.token_counts) == titles
        assert description.score == pytest.approx(answer["scores"]["score"]["score"], abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"attributes": ["overal gestalt"]},
            r"'overal gestalt'\. Did you mean 'Overall Gestalt'\?.*composition_design",
        ),
        ({"attributes": ["Overall Gestalt", "Quality"]}, "Protocol artimuse has no text question 'Quality'"),
        ({"attributes": []}, "was asked no text question"),
        ({"max_new_tokens": 0}, "--max-new-tokens takes a whole number from 1 to .*, not 0"),
        ({"max_new_tokens": -1}, "--max-new-tokens takes a whole number from 1 to .*, not -1"),
        ({"max_new_tokens": 10**6}, "--max-new-tokens takes a whole number from 1 to .*, not 1000000"),
        ({"sequences": 0}, "--sequences takes a whole number from 1 or `auto`, not 0"),
        ({"sequences": -3}, "--sequences takes a whole number from 1 or `auto`, not -3"),
    ],
    ids=str,
)
def test_arguments_that_mean_nothing_are_refused(
    models: dict[str, ArtiMuse], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        models["artimuse"].describe(golden_images()[0], **arguments)
    with pytest.raises(UsageError, match=message):
        models["artimuse"].describer(**arguments)
    with pytest.raises(UsageError, match=message):
        next(models["artimuse"].describe_each([golden_images()[0]], **arguments))


def test_the_published_limit_of_8192_tokens_is_accepted(models: dict[str, ArtiMuse]) -> None:
    description = models["artimuse"].describe(golden_images()[3], max_new_tokens=8192, attributes=["Overall Gestalt"])
    assert description.texts["Overall Gestalt"] == golden_texts()[3]["Overall Gestalt"]


def test_an_unreadable_picture_is_named(models: dict[str, ArtiMuse], tmp_path: Path) -> None:
    text = tmp_path / "holiday.jpg"
    text.write_text("Dear diary")
    with pytest.raises(ImageError, match=r"holiday\.jpg: The file starts like no image") as caught:
        models["artimuse"].describe([golden_images()[0], text], max_new_tokens=2)
    assert caught.value.error_type == "not_an_image"
    with pytest.raises(ImageError, match=r"nowhere\.jpg: There is no such file"):
        models["artimuse"].describe(tmp_path / "nowhere.jpg")
    with pytest.raises(UsageError, match="An array of one picture is"):
        models["artimuse"].describe(np.zeros((8, 8, 2), np.uint8))


@pytest.mark.slow
def test_of_an_endless_supply_pictures_are_read_as_they_are_needed(models: dict[str, ArtiMuse]) -> None:
    pulled = itertools.count()
    last_pulled = -1

    def photos() -> Iterator[Path]:
        nonlocal last_pulled
        for path in itertools.cycle(golden_images()):
            last_pulled = next(pulled)
            assert last_pulled < 100, "it would never end"
            yield path

    each = models["artimuse"].describe_each(photos(), max_new_tokens=GOLDEN_TOKENS, sequences=8)
    assert last_pulled == -1  # nothing is read before the first is asked for
    seen: dict[int, ImageDescription] = {}
    for _ in range(16):
        index, description = next(each)
        assert index not in seen
        seen[index] = description
        # Beside those that are finished at most one for each place, one that waits for a place, and one in the queue.
        assert last_pulled <= len(seen) + 8 + 2
    assert sorted(seen)[:10] == list(range(10))  # none is put off
    for index, description in seen.items():
        assert dict(description.texts) == golden_texts()[index % 13]


@pytest.mark.slow
def test_a_picture_that_is_finished_is_given_before_the_last_is_read(models: dict[str, ArtiMuse]) -> None:
    events: list[str] = []

    def photos() -> Iterator[Path]:
        for place, path in enumerate(golden_images()[:6]):
            events.append(f"read {place}")
            yield path

    for index, _ in models["artimuse"].describe_each(photos(), max_new_tokens=4, sequences=8):
        events.append(f"described {index}")
    assert events.index("described 0") < events.index("read 3")
    assert sorted(events) == sorted(f"{what} {place}" for place in range(6) for what in ("read", "described"))


def test_without_scores_a_description_has_texts_only(models: dict[str, ArtiMuse]) -> None:
    describer = models["artimuse"].describer(max_new_tokens=GOLDEN_TOKENS)
    assert describer.titles == TITLES
    describer.add("plain", read_pixels(golden_images()[0]), scored=False)
    describer.add("scored", read_pixels(golden_images()[1]))
    described = dict(work_off(describer))
    assert (described["plain"].scores, described["plain"].stds, described["plain"].distributions) == ({}, {}, {})
    assert list(described["scored"].scores) == ["score"]
    assert texts_of([described["plain"], described["scored"]]) == golden_texts(2)


@pytest.mark.slow
def test_each_picture_comes_back_with_its_key_whatever_that_is(models: dict[str, ArtiMuse]) -> None:
    # The same key twice, the same picture twice, keys that have no hash and keys without an order.
    keys = ["a", "a", ["no hash"], None, 7, {"row": 3}]
    places = [0, 1, 2, 2, 4, 5]
    describer = models["artimuse"].describer(max_new_tokens=GOLDEN_TOKENS, sequences=32)
    for key, place in zip(keys, places, strict=True):
        describer.add(key, read_pixels(golden_images()[place]))
    finished = work_off(describer)
    wanted = [(key, golden_texts()[place]) for key, place in zip(keys, places, strict=True)]
    found = [(key, dict(description.texts)) for key, description in finished]
    assert len(found) == len(wanted)
    assert all(pair in found for pair in wanted)
    assert any(key is keys[2] for key, _ in finished)  # the object itself


@pytest.mark.slow
def test_two_describers_of_one_model_do_not_disturb_each_other(models: dict[str, ArtiMuse]) -> None:
    model = models["artimuse"]
    describers = [
        model.describer(max_new_tokens=GOLDEN_TOKENS, sequences=16),
        model.describer(max_new_tokens=GOLDEN_TOKENS, sequences=5, attributes=TITLES[:2]),
    ]
    for place, path in enumerate(golden_images()[:4]):
        for describer in describers:
            describer.add(place, read_pixels(path))
    finished: list[dict[int, ImageDescription]] = [{}, {}]
    for step in itertools.count():
        if not any(describer.engine.busy for describer in describers):
            break
        for describer, found in zip(describers, finished, strict=True):
            found |= dict(describer.step())
        if step % 16 == 0:
            model.score(golden_images()[4])
    for found in finished:
        assert sorted(found) == [0, 1, 2, 3]
    for place, golden in enumerate(golden_texts(4)):
        assert dict(finished[0][place].texts) == golden
        assert dict(finished[1][place].texts) == {title: golden[title] for title in TITLES[:2]}


def test_a_describer_is_made_of_what_the_model_and_the_protocol_say(models: dict[str, ArtiMuse]) -> None:
    describer = models["unipercept"].describer(attributes=["iqa_distortion_type", "ISTA-Structural Analysis"])
    assert describer.titles == ("IQA-Distortion Type", "ISTA-Structural Analysis")
    describer.add(0, read_pixels(golden_images()[0]))
    ((_, description),) = work_off(describer)
    assert list(description.scores) == ["iaa", "iqa", "ista"]
    assert tuple(description.texts) == describer.titles


def test_out_of_memory_is_a_run_error_for_describe_too(
    models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out_of_memory(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(models["artimuse"].model, "decode_step", run_out_of_memory)
    with pytest.raises(RunError, match="One text does not fit into the free memory of cpu"):
        models["artimuse"].describe(golden_images()[:2])


def ids_of(tokenizer: Tokenizer, tokens: Iterable[str]) -> list[int]:
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[token] for token in tokens]


def spell(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of ordinary tokens, none of them special, whatever the text looks like."""
    ids = ids_of(tokenizer, text)
    assert tokenizer.decode(ids) == text
    return ids


def test_special_tokens_are_left_out_and_blanks_around_a_text_too(tokenizer: Tokenizer) -> None:
    image, end, pad = ids_of(tokenizer, ["<IMG_CONTEXT>", "</box>", "<|endoftext|>"])
    words = tokenizer.encode(" \n\tThe light  is  soft .\r\n ", add_special_tokens=False).ids
    assert to_text(tokenizer, [image, *words[:3], pad, *words[3:], end]) == "The light  is  soft ."
    assert to_text(tokenizer, [image, end]) == to_text(tokenizer, []) == ""


def test_a_text_ends_where_the_end_of_the_turn_is_spelt_out(tokenizer: Tokenizer) -> None:
    # As the published code has it, which splits the decoded text.
    assert to_text(tokenizer, spell(tokenizer, "soft<|im_end|>hard<|im_end|>")) == "soft"
    assert to_text(tokenizer, spell(tokenizer, "<|im_end|>hard")) == ""
    assert to_text(tokenizer, spell(tokenizer, "a<|im_start|>b")) == "a<|im_start|>b"


@pytest.mark.parametrize(
    "text",
    [
        "a\x00b\x00",
        "\x1b[31mred\x1b[0m\x07",
        "<script>alert('1')</script>&amp;&lt;",
        "`code` **bold** [link](javascript:0) {{ braces }} ${HOME} %s",
        "=1+1",
        "one\ntwo\r\nthree\x0bfour\x85five\u2028six",
        "don't , no . 'm n't  two  blanks",
        "构图 🖼️ é \u202eevil\u202c \ufeff \ufffe\uffff",
    ],
)
def test_control_characters_markup_and_all_of_unicode_survive(tokenizer: Tokenizer, text: str) -> None:
    assert to_text(tokenizer, tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_bytes_that_are_no_utf_8_become_replacement_characters(tokenizer: Tokenizer) -> None:
    (smile,) = [tokenizer.encode("🙂", add_special_tokens=False).ids]
    assert len(smile) > 1
    assert to_text(tokenizer, smile) == "🙂"
    assert to_text(tokenizer, [*smile[:-1], *spell(tokenizer, "x")]) == "\ufffdx"
    surrogate = ids_of(tokenizer, ["í", "ł", "Ģ"])  # ED A0 80, as a byte-level vocabulary writes them
    text = to_text(tokenizer, [*surrogate, *spell(tokenizer, "x")])
    assert set(text) == {"\ufffd", "x"}


class Saying:
    """A tokenizer that decodes everything to one text: the real one gives no lone surrogates, another one may."""

    def __init__(self, text: str) -> None:
        self.text = text

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens, token_ids
        return self.text


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("b\udfffa", "b\ufffda"),
        ("\ud83d", "\ufffd"),
        ("\udc00\ud800", "\ufffd\ufffd"),
        ("\ud83d\ude42", "🙂"),
        ("\ufeffa\ufeff", "\ufeffa\ufeff"),
        ("🙂\ud83dx", "🙂\ufffdx"),
    ],
    ids=ascii,
)
def test_lone_surrogates_become_replacement_characters(said: str, text: str) -> None:
    found = to_text(cast(Tokenizer, Saying(said)), [0])
    assert found == text
    found.encode("utf-8")
