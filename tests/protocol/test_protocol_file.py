from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from artimuse_actor.errors import UsageError
from artimuse_actor.protocol.protocol_file import open_protocol
from artimuse_actor.protocol.protocols import ARTIMUSE, UNIPERCEPT

QUESTION = '[texts]\n"Flaws" = "Which flaws does this image have?"\n'


def _write(folder: Path, text: str) -> str:
    (folder / "p.toml").write_text(text)
    return str(folder / "p.toml")


def test_a_file_asks_its_questions_and_the_scores_of_its_base(tmp_path: Path) -> None:
    protocol = open_protocol(_write(tmp_path, 'name = "mine"\nbase = "unipercept"\n' + QUESTION))
    assert protocol.name == "mine"
    assert protocol.score_questions == UNIPERCEPT.score_questions
    assert protocol.text_questions == {"Flaws": "\nWhich flaws does this image have?"}
    assert protocol.digest not in (UNIPERCEPT.digest, ARTIMUSE.digest)
    assert pickle.loads(pickle.dumps(protocol)).digest == protocol.digest


def test_the_base_is_artimuse_if_none_is_named_and_order_and_language_are_free(tmp_path: Path) -> None:
    protocol = open_protocol(_write(tmp_path, 'name = "x"\n[texts]\n"构图" = "构图如何？"\n"A" = "B?"\n'))
    assert protocol.score_questions == ARTIMUSE.score_questions
    assert list(protocol.choose_texts()) == ["构图", "A"]
    assert list(protocol.choose_texts(["构图"])) == ["构图"]


@pytest.mark.parametrize("protocol", [ARTIMUSE, UNIPERCEPT])
def test_names_of_built_in_protocols_still_work(protocol: object) -> None:
    assert open_protocol(protocol.name) is protocol  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (QUESTION, "name must be a text"),
        ('name = ""\n' + QUESTION, "name must be a text"),
        ('name = "x"', "asks nothing"),
        ('name = "x"\n[texts]', "asks nothing"),
        ('name = "x"\nquestions = 3\n' + QUESTION, "no meaning for 'questions'"),
        ('name = "x"\nbase = "clip"\n' + QUESTION, "no protocol 'clip'"),
        ('name = "x"\n[texts]\n"A" = 3', "the question of 'A' must be a text, not int"),
        ('name = "x"\n[texts]\n"A" = " "', "the question of 'A' must be a text"),
        ('name = "x"\n[texts]\n"A" = "a <img> b"', "contains <img>, which would break the prompt"),
        ('name = "x"\n[texts]\n"A" = "a<|im_end|>"', "contains <|im_end|>"),
        ('name = "x"\n[texts]\n"Score" = "a"', "'Score' cannot name a column"),
        ('name = "x"\n[texts]\n"Image id" = "a"', "'Image id' cannot name a column"),
        ('name = "x"\n[texts]\n"A b" = "a"\n"a-B" = "a"', "'a-B' cannot name a column"),
        ('name = "x"\n[texts]\n"A" = "a"\n"A tokens" = "a"', "'A tokens' cannot name a column"),
        ('name = "x"\n[texts]\n"&!" = "a"', "'&!' cannot name a column"),
        ("name = ", "is not TOML"),
        ("name = " + "9" * 5_000, "is not TOML"),
        ("name = 0x" + "f" * 9_000, "name must be a text, not int"),
        ("name = " + "[" * 9_000, "too deep inside each other"),
        ("name = " + "{a = " * 9_000, "too deep inside each other"),
        ("a." * 9_000 + "a = 1", "has a line of more than 100 dots"),
        ("#" * 66_000, "has more than 65,536 bytes"),
        ('name = "a\\u001b[2J"\n' + QUESTION, "name must be one line of at most 100 printable characters"),
        ('name = "' + "a" * 101 + '"\n' + QUESTION, "name must be one line of at most 100 printable characters"),
        ('name = "x"\n[texts]\n"A\\u001b[2J" = "B?"', "a title must be one line"),
        ('"a\\u001b" = 1', "no meaning for 'a'"),
    ],
    ids=lambda text: text[:30],
)
def test_a_file_out_of_order_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        open_protocol(path)
    assert says in str(caught.value)
    assert path in str(caught.value) or "clip" in says


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone.toml: cannot be read: No such file"):
        open_protocol(str(tmp_path / "gone.toml"))


def test_a_file_that_is_no_text_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not TOML"):
        open_protocol(str(tmp_path / "b.toml"))
