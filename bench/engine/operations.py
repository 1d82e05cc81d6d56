"""Counted floating-point operations of scores and texts: two for each multiplication and its addition in a product.

    python bench/engine/operations.py

prints what a score batch, an admission and a decode step of the full network do (counted on fake tensors, no GPU is
needed) and the time that follows on an H100 and an H200, with the rates that this rests on.

Of attention, the causal half is counted; norms, activations and rotations are not. With the sizes of the 8B network
this gives, for one score, 8.00 TFLOP for the published loop and 6.69 for the engine; for a score and eight texts of
100 tokens 61.7 TFLOP as published, 20.7 with one image encoding and one shared prefix, and 19.4 for the engine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started

from artimuse_actor.checkpoint.network_config import LanguageConfig, NetworkConfig, VisionConfig
from artimuse_actor.engine.scoring import LEVEL_COUNT
from artimuse_actor.protocol.prompts import SplitPrompts, split_tails
from artimuse_actor.protocol.protocols import IMAGE_TOKENS


@dataclass(frozen=True)
class PromptLengths:
    """Tokens of one score prompt and several text prompts, all counted from their first token.

    Attributes:
        head: the tokens before the image, the same for every image.
        shared: the common prefix of all prompts about one image.
        text_shared: the common prefix of its text prompts.
        score: the whole score prompt.
        texts: each whole text prompt.
    """

    head: int
    shared: int
    text_shared: int
    score: int
    texts: tuple[int, ...]

    @classmethod
    def of(cls, prompts: SplitPrompts) -> PromptLengths:
        """Lengths of prompts whose first is the score prompt."""
        head = len(prompts.head)
        shared = head + IMAGE_TOKENS + len(prompts.shared)
        score, *texts = (shared + len(tail) for tail in prompts.tails)
        text_shared, _ = split_tails(prompts.tails[1:])
        return cls(head, shared, shared + len(text_shared), score, tuple(texts))


def image_operations(config: NetworkConfig) -> int:
    """Encoding one image, up to the image tokens."""
    vision: VisionConfig = config.vision
    tokens, width = vision.num_patches + 1, vision.hidden_size
    patches = vision.num_patches * 3 * vision.patch_size**2 * width
    weights = 4 * width**2 + 2 * width * vision.intermediate_size
    layers = vision.num_layers * (tokens * weights + 2 * tokens**2 * width)
    projector = IMAGE_TOKENS * config.language.hidden_size * (4 * width + config.language.hidden_size)
    return 2 * (patches + layers + projector)


def published_operations(config: NetworkConfig, prompt_tokens: int) -> int:
    """One score as published: every layer and the whole head at every position."""
    return image_operations(config) + _read(config, 0, prompt_tokens) + head_operations(config, prompt_tokens)


def engine_operations(config: NetworkConfig, head_tokens: int, prompt_tokens: int) -> int:
    """One score by the engine: the head's cache is there, and of the last layer only what is read is computed."""
    return image_operations(config) + _scored(config, head_tokens, prompt_tokens)


def engine_scores_operations(
    config: NetworkConfig, head_tokens: int, shared_tokens: int, prompts: Sequence[int]
) -> int:
    """Several scores of an image: it is encoded once, and what their prompts share is read once.

    Args:
        config: the sizes.
        head_tokens: before the image.
        shared_tokens: of the common prefix of all prompts, counted from their first token.
        prompts: tokens of each whole prompt.
    """
    prefix = _cached(config, head_tokens, shared_tokens)
    return image_operations(config) + prefix + sum(_scored(config, shared_tokens, prompt) for prompt in prompts)


def published_text_operations(config: NetworkConfig, lengths: PromptLengths, text_tokens: int) -> int:
    """A score and all texts as published: each prompt alone, and the whole head at every position.

    A text of so many tokens is one that ends by itself: all of them are read. At a limit, the last one is not.
    """
    texts = (published_operations(config, prompt + text_tokens) for prompt in lengths.texts)
    return published_operations(config, lengths.score) + sum(texts)


def shared_text_operations(config: NetworkConfig, lengths: PromptLengths, text_tokens: int) -> int:
    """The same with one image encoding, and what prompts share read once: what the bound of a device is made from."""
    score_tail = lengths.score - lengths.shared
    once = _read(config, 0, lengths.text_shared) + _read(config, lengths.shared, lengths.score)
    ends = [prompt + text_tokens for prompt in lengths.texts]
    each = sum(_read(config, lengths.text_shared, end) for end in ends)
    positions = lengths.shared + score_tail + sum(end - lengths.text_shared for end in ends)
    return image_operations(config) + once + each + head_operations(config, positions)


def engine_text_operations(config: NetworkConfig, lengths: PromptLengths, text_tokens: int) -> int:
    """The same by the engine, which also spares the head of all prompts and what of the last layer is not read."""
    prefix = _cached(config, lengths.head, lengths.shared) + _cached(config, lengths.shared, lengths.text_shared)
    score = _scored(config, lengths.shared, lengths.score)
    ends = [prompt + text_tokens for prompt in lengths.texts]
    steps = sum(_read(config, lengths.text_shared, end) for end in ends)
    positions = sum(end - lengths.text_shared for end in ends)
    return image_operations(config) + prefix + score + steps + head_operations(config, positions)


def head_operations(config: NetworkConfig, positions: int) -> int:
    """Logits of the whole vocabulary."""
    return 2 * positions * config.language.hidden_size * config.language.vocab_size


def _read(config: NetworkConfig, start: int, stop: int) -> int:
    """Every layer from position start to stop - 1."""
    return 2 * config.language.num_layers * _layer(config.language, start, stop)


def _cached(config: NetworkConfig, start: int, stop: int) -> int:
    """The same for keys and values alone."""
    language = config.language
    last = (stop - start) * _kv_weights(language)
    return 2 * ((language.num_layers - 1) * _layer(language, start, stop) + last)


def _scored(config: NetworkConfig, start: int, stop: int) -> int:
    """The same for the logits of the levels at the last position."""
    language = config.language
    last = _other_weights(language) + 2 * stop * language.hidden_size
    return _cached(config, start, stop) + 2 * (last + LEVEL_COUNT * language.hidden_size)


def _layer(language: LanguageConfig, start: int, stop: int) -> int:
    weights = _kv_weights(language) + _other_weights(language)
    return (stop - start) * weights + _attention(language, start, stop)


def _kv_weights(language: LanguageConfig) -> int:
    return 2 * language.hidden_size * language.num_kv_heads * language.head_dim


def _other_weights(language: LanguageConfig) -> int:
    return 2 * language.hidden_size**2 + 3 * language.hidden_size * language.intermediate_size


def _attention(language: LanguageConfig, start: int, stop: int) -> int:
    """Two products over all pairs of a position from start to stop - 1 and one that it sees."""
    pairs = (stop * (stop + 1) - start * (start + 1)) // 2
    return 2 * pairs * language.hidden_size


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    # It needs torch's fake tensors, which the counts above do not.
    from bench.engine.counted_table import print_quantised, print_table

    print_table()
    print("\nweights of fewer bits, on an H100 SXM and an H200:\n")
    print_quantised()
    return 0


if __name__ == "__main__":
    sys.exit(main())
