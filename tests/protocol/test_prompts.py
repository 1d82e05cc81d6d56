from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.golden import PROTOCOL_NAMES, golden_checkpoint, golden_protocol
from support.tiny_checkpoints import copy_checkpoint

from artimuse_actor.errors import CheckpointError
from artimuse_actor.protocol.prompts import level_ids, prompt_ids, split_prompts
from artimuse_actor.protocol.protocols import IMAGE_TOKENS, PROTOCOLS, Protocol
from artimuse_actor.protocol.tokenizer import load_tokenizer

VOCAB_SIZE = 1155


@pytest.mark.parametrize("name", PROTOCOL_NAMES)
@pytest.mark.parametrize("kind", ["score_questions", "text_questions"])
def test_token_ids_of_every_prompt_equal_those_of_the_published_code(name: str, kind: str) -> None:
    tokenizer, protocol = load_tokenizer(golden_checkpoint(name)), PROTOCOLS[name]
    for title, text in getattr(protocol, kind).items():
        assert prompt_ids(tokenizer, protocol, text) == golden_protocol(name)[kind][title]["input_ids"], title


@pytest.mark.parametrize("name", PROTOCOL_NAMES)
@pytest.mark.parametrize("kind", ["score_questions", "text_questions"])
def test_split_prompts_put_together_again_are_the_prompts(name: str, kind: str) -> None:
    tokenizer, protocol = load_tokenizer(golden_checkpoint(name)), PROTOCOLS[name]
    prompts = split_prompts(tokenizer, protocol, getattr(protocol, kind).values())
    image = (tokenizer.token_to_id("<IMG_CONTEXT>"),) * IMAGE_TOKENS
    whole = [list(prompts.head + image + prompts.shared + tail) for tail in prompts.tails]
    assert whole == [entry["input_ids"] for entry in golden_protocol(name)[kind].values()]
    assert all(prompts.tails)


def test_the_image_is_between_its_two_marks() -> None:
    tokenizer = load_tokenizer(golden_checkpoint("unipercept"))
    prompts = split_prompts(tokenizer, PROTOCOLS["unipercept"], PROTOCOLS["unipercept"].score_questions.values())
    assert prompts.head[-1] == tokenizer.token_to_id("<img>")
    assert prompts.shared[0] == tokenizer.token_to_id("</img>")


def test_a_prompt_that_others_begin_with_keeps_a_token_to_be_read_at() -> None:
    # With nothing of its own left, its answer could not be read apart from the others'.
    tokenizer, protocol = load_tokenizer(golden_checkpoint("artimuse")), PROTOCOLS["artimuse"]
    twins = split_prompts(tokenizer, protocol, ["\nWhat is it?", "\nWhat is it?"])
    assert [len(tail) for tail in twins.tails] == [1, 1]


@pytest.mark.parametrize("name", PROTOCOL_NAMES)
def test_levels_are_101_different_tokens_of_the_vocabulary(name: str) -> None:
    folder = golden_checkpoint(name)
    tokenizer = load_tokenizer(folder)
    ids = level_ids(tokenizer, PROTOCOLS[name], folder, VOCAB_SIZE)
    assert len(set(ids)) == 101
    assert [tokenizer.id_to_token(token_id) for token_id in ids] == golden_protocol(name)["score_levels"]


def test_a_tokenizer_without_a_level_token_names_the_level(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path / "checkpoint")
    _change_json(folder / "vocab.json", lambda vocab: vocab | {"dq_": vocab.pop("dq")})
    _drop_merge(folder, "d q")
    with pytest.raises(CheckpointError, match=r"checkpoint: the tokenizer has no token 'dq', one of the 101 score lev"):
        level_ids(load_tokenizer(folder), PROTOCOLS["artimuse"], folder, VOCAB_SIZE)


def test_a_level_outside_the_embedding_table_is_refused() -> None:
    folder = golden_checkpoint("artimuse")
    with pytest.raises(CheckpointError, match="has no token"):
        level_ids(load_tokenizer(folder), PROTOCOLS["artimuse"], folder, vocab_size=300)


def test_two_levels_of_one_token_are_refused() -> None:
    folder = golden_checkpoint("artimuse")
    doubled = Protocol("doubled", {"score": "?"}, {}, levels=("aa", "ab", "aa"))
    with pytest.raises(CheckpointError, match="two score levels share one token"):
        level_ids(load_tokenizer(folder), doubled, folder, VOCAB_SIZE)


def _change_json(path: Path, change: object) -> None:
    assert callable(change)
    path.write_text(json.dumps(change(json.loads(path.read_text())), ensure_ascii=False))


def _drop_merge(folder: Path, merge: str) -> None:
    merges = (folder / "merges.txt").read_text().splitlines()
    assert merge in merges
    (folder / "merges.txt").write_text("\n".join(line for line in merges if line != merge) + "\n")
