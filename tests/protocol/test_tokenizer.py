"""The tokenizer beside transformers' `Qwen2Tokenizer`, which wraps the same library."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.golden import PROTOCOL_NAMES, golden_checkpoint
from support.tiny_checkpoints import copy_checkpoint
from tokenizers import Tokenizer, models

from artimuse_actor.errors import CheckpointError
from artimuse_actor.protocol.protocols import PROTOCOLS
from artimuse_actor.protocol.tokenizer import load_tokenizer
from jobs.demo.run import CHECKPOINT as DEMO

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

FOLDERS: Mapping[str, Path] = {name: golden_checkpoint(name) for name in PROTOCOL_NAMES} | {"demo": DEMO}
SPECIAL = ("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<|endoftext|>", "<box>", "<im", "|>")
SPACED = (" .", " ,", " n't", " 'm", "  ", "\r\n", "\n\n", "\t", " do not", "e\u0301", "한", "ﬁ", "\u00a0", "\ufeff")

texts = st.lists(
    st.one_of(st.text(max_size=20), st.sampled_from(SPECIAL), st.sampled_from(SPACED), st.sampled_from(["aa", "dz"])),
    max_size=12,
).map("".join)


def read_both(folder: Path) -> tuple[Tokenizer, Qwen2Tokenizer]:
    from transformers import Qwen2Tokenizer  # for the one worker that runs these tests

    return load_tokenizer(folder), Qwen2Tokenizer.from_pretrained(str(folder), local_files_only=True)


@pytest.fixture(scope="module", params=FOLDERS)
def both(request: pytest.FixtureRequest) -> tuple[Tokenizer, Qwen2Tokenizer]:
    return read_both(FOLDERS[request.param])


def same_ids(ours: Tokenizer, theirs: Qwen2Tokenizer, text: str) -> list[int]:
    ids = ours.encode(text, add_special_tokens=False).ids
    assert ids == theirs.encode(text, add_special_tokens=False)
    return ids


def same_texts(ours: Tokenizer, theirs: Qwen2Tokenizer, ids: list[int]) -> None:
    for skip in (False, True):
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


def test_both_have_the_same_tokens(both: tuple[Tokenizer, Qwen2Tokenizer]) -> None:
    ours, theirs = both
    assert ours.get_vocab() == theirs.get_vocab()
    described = [
        {token_id: repr(token) for token_id, token in found.items()}
        for found in (ours.get_added_tokens_decoder(), theirs.added_tokens_decoder)
    ]
    assert described[0] == described[1]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_both_read_every_prompt_alike(both: tuple[Tokenizer, Qwen2Tokenizer], name: str) -> None:
    protocol = PROTOCOLS[name]
    for question in (*protocol.score_questions.values(), *protocol.text_questions.values()):
        same_texts(*both, same_ids(*both, protocol.prompt(question)))


@given(text=texts)
def test_both_read_any_text_alike(both: tuple[Tokenizer, Qwen2Tokenizer], text: str) -> None:
    same_texts(*both, same_ids(*both, text))


@given(ids=st.lists(st.integers(0, 1200), max_size=40))
def test_both_write_any_tokens_alike(both: tuple[Tokenizer, Qwen2Tokenizer], ids: list[int]) -> None:
    same_texts(*both, ids)  # those outside the vocabulary too, which a head with spare rows can choose


def without_decoder(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "added_tokens_decoder"}


def change_json(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text())), ensure_ascii=False))


def test_added_tokens_of_older_files_are_read_alike(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path / "checkpoint")
    change_json(folder / "tokenizer_config.json", without_decoder)
    ours, theirs = read_both(folder)
    assert ours.get_vocab() == theirs.get_vocab()
    text = PROTOCOLS["artimuse"].prompt("\nWhy <box>this</box>?")
    ids = same_ids(ours, theirs, text)
    same_texts(ours, theirs, ids)
    assert "<box>" not in ours.decode(ids)


def test_a_tokenizer_json_alone_is_read_alike(tmp_path: Path) -> None:
    _, saved = read_both(golden_checkpoint("artimuse"))
    saved.save_pretrained(str(tmp_path))
    assert not (tmp_path / "vocab.json").exists()
    ours, theirs = read_both(tmp_path)
    assert ours.get_vocab() == theirs.get_vocab()
    for title in ("score", "composition"):
        same_texts(ours, theirs, same_ids(ours, theirs, PROTOCOLS["artimuse"].prompt(f"\n{title} …<img>  é")))


def test_a_tokenizer_json_is_asked_before_vocab_json_and_reads_each_prompt_in_one_way(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path / "checkpoint")
    load_tokenizer(folder).save(str(folder / "tokenizer.json"))
    change_json(folder / "tokenizer.json", lambda saved: saved | {"model": saved["model"] | {"dropout": 0.9}})
    (folder / "vocab.json").write_text("{}")
    prompt = PROTOCOLS["artimuse"].prompt("\nWhy?")
    expected = load_tokenizer(golden_checkpoint("artimuse")).encode(prompt, add_special_tokens=False).ids
    assert load_tokenizer(folder).encode(prompt, add_special_tokens=False).ids == expected


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path / "checkpoint")
    Tokenizer(models.WordLevel({"a": 0})).save(str(folder / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: is no byte-level BPE"):
        load_tokenizer(folder)


def test_an_added_token_that_gets_another_id_than_its_file_says_is_refused(tmp_path: Path) -> None:
    # transformers numbers them on from the vocabulary, so a gap would read them at other rows of the embeddings.
    folder = copy_checkpoint(tmp_path / "checkpoint")
    change_json(folder / "tokenizer_config.json", _with_a_gap)
    with pytest.raises(CheckpointError, match=r"give the token '<img>' the id 1147, but of the vocabulary it is 1146"):
        load_tokenizer(folder)


def _with_a_gap(config: dict[str, Any]) -> dict[str, Any]:
    added = {str(int(key) + (int(key) > 1145)): value for key, value in config["added_tokens_decoder"].items()}
    return config | {"added_tokens_decoder": added}


@pytest.mark.parametrize("token", ["<IMG_CONTEXT>", "<img>", "</img>"])
def test_a_tokenizer_without_a_token_of_the_prompt_names_the_token(tmp_path: Path, token: str) -> None:
    folder = copy_checkpoint(tmp_path / "checkpoint")
    change_json(folder / "tokenizer_config.json", without_decoder)
    change_json(folder / "added_tokens.json", lambda added: _without(added, token))
    with pytest.raises(CheckpointError, match=f"the tokenizer does not know {token}"):
        load_tokenizer(folder)


def _without(added: dict[str, int], token: str) -> dict[str, int]:
    kept = [name for name in added if name != token]
    return {name: min(added.values()) + n for n, name in enumerate(kept)}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("vocab.json", "{"),
        ("vocab.json", "[1, 2]"),
        ("vocab.json", ""),
        ("merges.txt", "one two three\n"),
        ("merges.txt", "#version: 0.2\nno such\n"),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "nonsense"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": [1]}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"1": {"content": "a", "shape": 3}}}'),
    ],
)
def test_malformed_tokenizer_files_are_an_error_that_names_the_folder(tmp_path: Path, file: str, content: str) -> None:
    folder = copy_checkpoint(tmp_path / "checkpoint")
    (folder / file).write_text(content)
    with pytest.raises(CheckpointError, match=r"checkpoint(: the tokenizer|/tokenizer_config.json: is not)"):
        load_tokenizer(folder)
