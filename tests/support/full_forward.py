"""Texts the slow and obvious way: transformers' own forward over the whole sequence for every token, nothing kept."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from artimuse_actor import ArtiMuse
from artimuse_actor.engine.schedule import GeneratedText
from artimuse_actor.images.decode import decode_image
from artimuse_actor.images.options import Pixels
from artimuse_actor.protocol.prompts import image_token_id, prompt_ids
from artimuse_actor.protocol.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import InternVLForConditionalGeneration

CLEAR_MARGIN = 1e-3
"""Smallest gap between the logits of the two likeliest tokens.

Sums in another order move them by less than a tenth of this.
"""


@lru_cache(maxsize=2)
def reference(model: ArtiMuse) -> InternVLForConditionalGeneration:
    """The modules of transformers over a model's weights."""
    from artimuse_actor.verify.reference import reference_network  # for the one worker that runs these tests

    return reference_network(model.model.network, image_token_id(load_tokenizer(model.checkpoint.folder)))


@cache
def read_pixels(path: Path) -> Pixels:
    """(448, 448, 3) uint8."""
    return decode_image(path.read_bytes()).pixels


def embed_tokens(model: ArtiMuse, token_ids: list[int]) -> torch.Tensor:
    """(1, T, C)."""
    embeddings: torch.Tensor = reference(model).get_input_embeddings()(torch.tensor([token_ids]))
    return embeddings


@torch.inference_mode()
def embed_prompt(model: ArtiMuse, text_after_image: str, pixels: Pixels) -> torch.Tensor:
    """(1, T, C): a whole prompt, its image in place."""
    tokenizer = load_tokenizer(model.checkpoint.folder)
    token_ids = prompt_ids(tokenizer, model.protocol, text_after_image)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixel_values = ((torch.tensor(pixels).float() / 255 - mean) / std).permute(2, 0, 1).unsqueeze(0)
    image = reference(model).model.get_image_features(pixel_values=pixel_values).pooler_output  # (1, 256, C)
    embeddings = embed_tokens(model, token_ids).clone()
    embeddings[torch.tensor([token_ids]) == image_token_id(tokenizer)] = image[0]
    return embeddings


@torch.inference_mode()
def final_hidden(model: ArtiMuse, embeddings: torch.Tensor) -> torch.Tensor:
    """(1, T, C) embeddings → (T, C), the final hidden state at every position."""
    language = reference(model).model.language_model
    hidden: torch.Tensor = language(inputs_embeds=embeddings, use_cache=False).last_hidden_state[0]
    return hidden


def greedy_tokens(model: ArtiMuse, text_after_image: str, pixels: Pixels, count: int) -> list[int]:
    """The first `count` tokens of a text that nothing stops.

    The same loop serves every stop token and every limit: see `cut`.
    """
    embeddings = embed_prompt(model, text_after_image, pixels)
    tokens: list[int] = []
    for _ in range(count):
        with torch.inference_mode():
            logits = reference(model).lm_head(final_hidden(model, embeddings)[-1])
        first, second = logits.topk(2).values.tolist()
        assert first - second > CLEAR_MARGIN, "rounding would decide: choose another picture or fewer tokens"
        tokens.append(int(logits.argmax()))
        embeddings = torch.cat([embeddings, embed_tokens(model, tokens[-1:])], dim=1)
    return tokens


def cut(tokens: list[int], stop_id: int, max_new_tokens: int) -> GeneratedText:
    """Where a stop token or the limit ends what `greedy_tokens` gives."""
    assert len(tokens) >= max_new_tokens
    kept = tokens[:max_new_tokens]
    if stop_id in kept:
        return GeneratedText(tuple(kept[: kept.index(stop_id)]), "stop")
    return GeneratedText(tuple(kept), "length")
