"""Counted floating-point operations of one score: two for each multiplication and its addition in a matrix product.

Of attention, the causal half is counted; norms, activations and rotations are not. With the sizes of the 8B network
this gives 8.00 TFLOP for the published loop and 6.69 for the engine.
"""

from __future__ import annotations

from artimuse_actor.network_config import LanguageConfig, NetworkConfig, VisionConfig
from artimuse_actor.protocols import IMAGE_TOKENS
from artimuse_actor.scoring import LEVEL_COUNT


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
    language = config.language
    layers = language.num_layers * (
        prompt_tokens * (_kv_weights(language) + _other_weights(language)) + _attention(language, 0, prompt_tokens)
    )
    return image_operations(config) + 2 * layers + head_operations(config, prompt_tokens)


def engine_operations(config: NetworkConfig, head_tokens: int, prompt_tokens: int) -> int:
    """One score by the engine: the head's cache is there, and of the last layer only what is read is computed."""
    language = config.language
    tokens = prompt_tokens - head_tokens
    whole = tokens * (_kv_weights(language) + _other_weights(language)) + _attention(
        language, head_tokens, prompt_tokens
    )
    last = tokens * _kv_weights(language) + _other_weights(language) + 2 * prompt_tokens * language.hidden_size
    levels = LEVEL_COUNT * language.hidden_size
    return image_operations(config) + 2 * ((language.num_layers - 1) * whole + last + levels)


def head_operations(config: NetworkConfig, positions: int) -> int:
    """Logits of the whole vocabulary."""
    return 2 * positions * config.language.hidden_size * config.language.vocab_size


def _kv_weights(language: LanguageConfig) -> int:
    return 2 * language.hidden_size * language.num_kv_heads * language.head_dim


def _other_weights(language: LanguageConfig) -> int:
    return 2 * language.hidden_size**2 + 3 * language.hidden_size * language.intermediate_size


def _attention(language: LanguageConfig, start: int, stop: int) -> int:
    """Two products over all pairs of a position from start to stop - 1 and one that it sees."""
    pairs = (stop * (stop + 1) - start * (start + 1)) // 2
    return 2 * pairs * language.hidden_size
