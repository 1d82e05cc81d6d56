"""A protocol and a tokenizer → token ids, split where prompts begin to differ.

The cuts are made between token ids, never between strings: a line break after the image merges with what follows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from artimuse_actor.errors import CheckpointError
from artimuse_actor.protocol.protocols import (
    IMAGE_CONTEXT,
    IMAGE_TOKENS,
    TURN_END,
    Protocol,
)


@dataclass(frozen=True)
class SplitPrompts:
    """Prompts about one image, as head + image + shared + one tail each.

    Attributes:
        head: ids up to and with `<img>`; the same for every image.
        shared: ids after the image that all prompts have in common; starts with `</img>`.
        tails: what follows, one entry a prompt; never empty.
    """

    head: tuple[int, ...]
    shared: tuple[int, ...]
    tails: tuple[tuple[int, ...], ...]


def image_token_id(tokenizer: Tokenizer) -> int:
    """Id of the placeholder that stands 256 times for an image."""
    return _known_id(tokenizer, IMAGE_CONTEXT)


def turn_end_id(tokenizer: Tokenizer) -> int:
    """Id of the token that ends an answer."""
    return _known_id(tokenizer, TURN_END)


def level_ids(tokenizer: Tokenizer, protocol: Protocol, folder: Path, vocab_size: int) -> list[int]:
    """Ids of the 101 score tokens, in the order of the levels.

    Raises:
        CheckpointError: a level is not one token, two are the same, or one lies outside the vocabulary.
    """
    ids = [tokenizer.token_to_id(level) for level in protocol.levels]
    for level, token_id in zip(protocol.levels, ids, strict=True):
        if token_id is None or not 0 <= token_id < vocab_size:
            raise CheckpointError(
                f"{folder}: the tokenizer has no token {level!r}, one of the {len(ids)} score levels; "
                "this checkpoint cannot score."
            )
    if len(set(ids)) != len(ids):
        raise CheckpointError(f"{folder}: two score levels share one token in the tokenizer.")
    return [token_id for token_id in ids if token_id is not None]


def letter_ids(tokenizer: Tokenizer, letters: Iterable[str], folder: Path) -> list[int]:
    """Ids of the letters of options.

    Raises:
        CheckpointError: a letter is not one token.
    """
    ids: list[int] = []
    for letter in letters:
        token_id = tokenizer.token_to_id(letter)
        if token_id is None:
            raise CheckpointError(f"{folder}: the tokenizer has no token {letter!r}; it is not Qwen2's.")
        ids.append(token_id)
    return ids


def prompt_ids(tokenizer: Tokenizer, protocol: Protocol, text_after_image: str) -> list[int]:
    """Token ids of one whole prompt, the image as 256 placeholders."""
    return list(tokenizer.encode(protocol.prompt(text_after_image), add_special_tokens=False).ids)


def split_prompts(tokenizer: Tokenizer, protocol: Protocol, questions: Iterable[str]) -> SplitPrompts:
    """Split the prompts of several questions where they begin to differ.

    Args:
        tokenizer: of the checkpoint.
        protocol: whose system message and template to use.
        questions: texts that follow the image; at least one.
    """
    prompts = [prompt_ids(tokenizer, protocol, text) for text in questions]
    image_id = image_token_id(tokenizer)
    start = prompts[0].index(image_id)
    head, rests = prompts[0][:start], []
    for prompt in prompts:
        if prompt[:start] != head or prompt[start : start + IMAGE_TOKENS] != [image_id] * IMAGE_TOKENS:
            raise AssertionError("a prompt of this protocol does not have its image where the others have it")
        rests.append(prompt[start + IMAGE_TOKENS :])
    shared, tails = split_tails(rests)
    return SplitPrompts(tuple(head), shared, tails)


def split_tails(rests: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Split sequences of ids into their common prefix and the rest of each; no rest is empty."""
    # Every prompt must be read at a position of its own, so a prompt that others begin with keeps its last token.
    cut = min(_common_length(rests), min(map(len, rests)) - 1)
    return tuple(rests[0][:cut]), tuple(tuple(rest[cut:]) for rest in rests)


def check_vocabulary(prompts: SplitPrompts, folder: Path, vocab_size: int) -> None:
    """Refuse prompts that the embedding table has no rows for; a GPU would end in a device assert that names nothing.

    Raises:
        CheckpointError: an id lies outside the vocabulary.
    """
    largest = max(token_id for ids in (prompts.head, prompts.shared, *prompts.tails) for token_id in ids)
    if largest >= vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer gives the prompt a token {largest}, outside the vocabulary of {vocab_size:,}; "
            "it belongs to another model."
        )


def _common_length(sequences: Sequence[Sequence[int]]) -> int:
    """Length of the common prefix of all sequences."""
    columns = zip(*sequences, strict=False)
    return next((index for index, column in enumerate(columns) if len(set(column)) > 1), min(map(len, sequences)))


def _known_id(tokenizer: Tokenizer, token: str) -> int:
    token_id = tokenizer.token_to_id(token)
    assert token_id is not None, token  # `load_tokenizer` refuses a tokenizer without it
    return token_id
