from __future__ import annotations

import dataclasses

import pytest
from support.golden import PROTOCOL_NAMES, golden_protocol

from artimuse_actor.errors import UsageError
from artimuse_actor.protocol.protocols import LEVELS, PROTOCOLS, get_protocol, guess_protocol
from schemas.text_settings import text_column


def test_levels_are_the_101_tokens_of_the_published_code_in_order() -> None:
    assert len(LEVELS) == len(set(LEVELS)) == 101
    for name in PROTOCOL_NAMES:
        assert list(PROTOCOLS[name].levels) == golden_protocol(name)["score_levels"]


@pytest.mark.parametrize(("level", "token"), [(0, "aa"), (25, "az"), (26, "ca"), (50, "cy"), (51, "da"), (100, "ey")])
def test_each_level_has_the_token_its_prompt_promises(level: int, token: str) -> None:
    assert LEVELS[level] == token


@pytest.mark.parametrize("name", PROTOCOL_NAMES)
@pytest.mark.parametrize("kind", ["score_questions", "text_questions"])
def test_questions_and_prompts_are_those_of_the_published_code_to_the_letter(name: str, kind: str) -> None:
    protocol, published = PROTOCOLS[name], golden_protocol(name)
    questions = getattr(protocol, kind)
    assert list(questions) == list(published[kind])
    assert protocol.system_message == published["system_message"]
    for title, text_after_image in questions.items():
        image = protocol.prompt("").split("user\n")[1].split("<|im_end|>")[0]
        prompt = published[kind][title]["prompt"].replace("<image>", image)
        assert protocol.prompt(text_after_image) == prompt, title


def test_the_misprints_and_blanks_of_the_published_prompts_are_still_there() -> None:
    assert "73-ec, 74-ed" in PROTOCOLS["unipercept"].score_questions["iaa"]
    question = PROTOCOLS["artimuse"].score_questions["score"]
    assert question.startswith("\n\n        Rate the aesthetics score of the image in 0-100. \n")
    assert question.endswith("letters.\n        ")


def test_digests_differ_between_protocols_and_with_every_letter() -> None:
    artimuse, unipercept = PROTOCOLS["artimuse"], PROTOCOLS["unipercept"]
    changed = (
        dataclasses.replace(artimuse, name="other"),
        dataclasses.replace(artimuse, system_message=artimuse.system_message + " "),
        dataclasses.replace(artimuse, levels=(artimuse.levels[1], artimuse.levels[0], *artimuse.levels[2:])),
        dataclasses.replace(artimuse, score_questions={"score": artimuse.score_questions["score"].rstrip(" ")}),
    )
    digests = {protocol.digest for protocol in (artimuse, unipercept, *changed)}
    assert len(digests) == 6
    assert all(len(digest) == 64 for digest in digests)
    assert dataclasses.replace(artimuse).digest == artimuse.digest


@pytest.mark.parametrize(
    ("checkpoint", "name"),
    [
        ("ArtiMuse", "artimuse"),
        ("ArtiMuse_FLICKR-AES", "artimuse"),
        ("UniPercept", "unipercept"),
        ("Thunderbolt215215/UniPercept@main", "unipercept"),
        ("/models/my-unipercept-v2", "unipercept"),
        ("/models/unipercept/step-9000", "unipercept"),
        ("/unipercept/ArtiMuse_AVA/snapshot", "artimuse"),
        ("whatever", "artimuse"),
    ],
)
def test_the_protocol_is_guessed_from_the_checkpoints_name(checkpoint: str, name: str) -> None:
    assert guess_protocol(checkpoint).name == name


def test_an_unknown_protocol_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UsageError, match=r"'artymuse'.*artimuse, unipercept"):
        get_protocol("artymuse")


@pytest.mark.parametrize(
    ("title", "column"),
    [
        ("Composition & Design", "composition_design"),
        ("IAA-Emotion & Viewer Response", "iaa_emotion_viewer_response"),
        ("ISTA-Structural Analysis", "ista_structural_analysis"),
        ("  Two  blanks!", "two_blanks"),
        ("overall_gestalt", "overall_gestalt"),
        ("__Level 9__", "level_9"),
    ],
)
def test_a_column_is_its_title_in_snake_case(title: str, column: str) -> None:
    assert text_column(title) == column
    assert text_column(column) == column


@pytest.mark.parametrize("name", PROTOCOL_NAMES)
def test_every_text_question_has_a_column_of_its_own(name: str) -> None:
    protocol = PROTOCOLS[name]
    columns = [text_column(title) for title in protocol.text_questions]
    assert len({*columns, *protocol.score_questions}) == len(columns) + len(protocol.score_questions)
    assert all(column.isidentifier() and column.islower() for column in columns)


@pytest.mark.parametrize("name", PROTOCOL_NAMES)
def test_all_text_questions_are_chosen_if_none_is_named(name: str) -> None:
    protocol = PROTOCOLS[name]
    chosen = protocol.choose_texts()
    assert list(chosen.items()) == list(protocol.text_questions.items())
    assert protocol.choose_texts(None) == chosen
    chosen.clear()
    assert protocol.text_questions  # what was given is a copy


@pytest.mark.parametrize("name", PROTOCOL_NAMES)
def test_text_questions_are_chosen_by_title_or_column_in_any_case_and_keep_their_order(name: str) -> None:
    protocol = PROTOCOLS[name]
    titles = list(protocol.text_questions)
    for title in titles:
        for wording in (title, title.lower(), title.upper(), text_column(title), text_column(title).upper()):
            assert protocol.choose_texts([wording]) == {title: protocol.text_questions[title]}
    assert list(protocol.choose_texts(titles[::-1])) == titles
    assert list(protocol.choose_texts((titles[4], text_column(titles[1]), titles[4]))) == [titles[1], titles[4]]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Overal Gestalt"], r"^Protocol artimuse has no text question 'Overal Gestalt'\. Did you mean"),
        (["overal_gestalt"], "Did you mean 'Overall Gestalt'"),
        (["Overall Gestalt", "colour"], r"'colour'\. It has: composition_design, .*, comprehensive_evaluation\.$"),
        (["iaa_comprehensive"], "no text question 'iaa_comprehensive'"),
        ([""], "no text question ''"),
        ([], r"^Protocol artimuse was asked no text question\. It has: composition_design, "),
        (["score"], "no text question 'score'"),
    ],
)
def test_a_text_question_that_the_protocol_does_not_have_is_refused_with_those_it_has(
    names: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        PROTOCOLS["artimuse"].choose_texts(names)


def test_one_question_may_stand_alone() -> None:
    assert list(PROTOCOLS["artimuse"].choose_texts("overall gestalt")) == ["Overall Gestalt"]
