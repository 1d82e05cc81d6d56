"""A network of random weights, made where it runs, with prompts and pictures of the real lengths and sizes.

Speed does not depend on the weights, so a benchmark needs no checkpoint and no tokenizer. What it cannot tell: how much
bfloat16 moves the scores of a *trained* network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional

from artimuse_actor.checkpoint.network_config import LanguageConfig, NetworkConfig, VisionConfig
from artimuse_actor.engine.network import Network
from artimuse_actor.engine.quantised import QuantisedLinear
from artimuse_actor.engine.scoring import LEVEL_COUNT
from artimuse_actor.engine.weights import build_network
from artimuse_actor.protocol.prompts import SplitPrompts

if TYPE_CHECKING:
    from transformers import InternVLForConditionalGeneration

HEAD_TOKENS: Final = 41  # the system message, the header of the user's turn and `<img>`
TAIL_TOKENS: Final = 213  # `</img>`, the score question and the assistant's header
TEXT_SHARED_TOKENS: Final = 14  # `</img>` and what else the eight text questions begin with
TEXT_TAIL_TOKENS: Final = (8, 8, 9, 9, 10, 10, 11, 11)  # what each has for itself, and the assistant's header
IMAGE_TOKEN_ID: Final = 0

_WEIGHT_STD: Final = 0.02
_LAYER_SCALE: Final = 0.1
_LOGIT_STD: Final = 2.0  # levels as unequal as a trained network's, so that scores differ from picture to picture
_QUERY_GAIN: Final = 1.5  # of queries and keys
_STOP_EVERY: Final = 60  # tokens; texts come out longer, since they repeat themselves


def network_config(
    *,
    vision_hidden: int,
    vision_layers: int,
    vision_heads: int,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    kv_heads: int,
    vocabulary: int,
) -> NetworkConfig:
    """Sizes of a network of ArtiMuse's kind; what is not an argument is as published."""
    vision = VisionConfig(
        hidden_size=vision_hidden,
        intermediate_size=4 * vision_hidden,
        num_layers=vision_layers,
        num_heads=vision_heads,
        image_size=448,
        patch_size=14,
        layer_norm_eps=1e-6,
        qkv_bias=True,
    )
    language = LanguageConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        vocab_size=vocabulary,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
        max_position_embeddings=32768,
        tie_word_embeddings=False,
    )
    return NetworkConfig(vision, language)


SMALL: Final = network_config(
    vision_hidden=64,
    vision_layers=2,
    vision_heads=2,
    hidden=256,
    intermediate=1024,
    layers=4,
    heads=4,
    kv_heads=2,
    vocabulary=2048,
)
"""For a run of seconds on a CPU."""

MEDIUM: Final = network_config(
    vision_hidden=192,
    vision_layers=8,
    vision_heads=3,
    hidden=512,
    intermediate=2688,
    layers=16,
    heads=8,
    kv_heads=2,
    vocabulary=10240,
)
"""The proportions of the published network at an eightieth of its operations, for one CPU thread."""

FULL: Final = network_config(
    vision_hidden=1024,
    vision_layers=24,
    vision_heads=16,
    hidden=3584,
    intermediate=18944,
    layers=28,
    heads=28,
    kv_heads=4,
    vocabulary=151674,
)
"""InternVL3-8B, as published."""


def with_layers(config: NetworkConfig, layers: int) -> NetworkConfig:
    """The same widths with fewer layers in the language model."""
    return replace(config, language=replace(config.language, num_layers=layers))


@dataclass(frozen=True)
class RandomModel:
    """The network and prompts that both contestants of a benchmark use.

    Attributes:
        config: the sizes.
        network: random weights.
        prompts: one score prompt of 510 tokens, cut as the product cuts it.
        text_prompts: that one, then eight text prompts of 319 to 322 tokens.
        level_ids: (101,) int64 on the network's device, ids of the score tokens.
        stop_id: a token that the network likes, so that texts end by themselves: some at once, half of them after a
            hundred tokens, some never.
    """

    config: NetworkConfig
    network: Network
    prompts: SplitPrompts
    text_prompts: SplitPrompts
    level_ids: torch.Tensor
    stop_id: int

    @cached_property
    def reference(self) -> InternVLForConditionalGeneration:
        """Transformers' own modules over the same weights."""
        from artimuse_actor.verify.reference import reference_network  # transformers takes a second to import

        return reference_network(self.network, IMAGE_TOKEN_ID)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.network.language_model.lm_head.weight.dtype

    @property
    def text_questions(self) -> SplitPrompts:
        """The text prompts alone."""
        return replace(self.text_prompts, tails=self.text_prompts.tails[1:])


def quantised_network(model: RandomModel, quantize: str) -> Network:
    """The same weights in fewer bits, beside those of the model."""
    network = build_network(model.config, device=model.level_ids.device, dtype=model.dtype, quantize=quantize)
    weights, parameters = model.network.state_dict(), dict(network.named_parameters())
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])
    for name, module in network.named_modules():
        if isinstance(module, QuantisedLinear):
            module.store(weights[f"{name}.weight"])
    return network


def random_model(config: NetworkConfig, *, device: torch.device, dtype: torch.dtype, seed: int = 0) -> RandomModel:
    """Random weights, prompts and level ids.

    The weights are scaled so that activations stay finite in bfloat16, and different pictures get different scores and
    texts.

    Args:
        config: the sizes.
        device: where the weights are made, and stay.
        dtype: of the weights.
        seed: of all of it; the weights also depend on the device.
    """
    network = build_network(config, device=device, dtype=dtype)
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in network.named_parameters():
        if "norm" in name or name.startswith("mlp1.0."):
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        elif name.endswith(("ls1", "ls2")):
            parameter.fill_(_LAYER_SCALE)
        else:
            parameter.normal_(0.0, _weight_std(name, parameter.shape[-1]), generator=generator)
    ids = torch.randperm(config.language.vocab_size - 1, generator=torch.Generator().manual_seed(seed)) + 1
    lengths = (LEVEL_COUNT, HEAD_TOKENS, TAIL_TOKENS, TEXT_SHARED_TOKENS - 1, *TEXT_TAIL_TOKENS, 1)
    parts = ids[: sum(lengths)].split(lengths)
    level_ids = parts[0].to(device)
    head, score, text_shared, *texts, stop = (tuple(part.tolist()) for part in parts[1:])
    network.language_model.lm_head.weight[stop[0]] *= _liking(config.language.vocab_size)
    prompts = SplitPrompts(head, shared=(), tails=(score,))
    tails = (score[1:], *(text_shared + text for text in texts))
    text_prompts = SplitPrompts(head, shared=score[:1], tails=tails)
    return RandomModel(config, network, prompts, text_prompts, level_ids, stop[0])


def _weight_std(name: str, inputs: int) -> float:
    """Standard deviation of a parameter.

    In the language model each layer adds about as much as there was, and attention chooses, whatever the width: else
    texts soon repeat one token, and a fast path that forgets the image or the text so far would still agree.
    """
    if name.endswith("embed_tokens.weight"):
        return 1.0
    if name.endswith("lm_head.weight"):
        return float(_LOGIT_STD / inputs**0.5)
    if "language_model.model.layers" not in name or name.endswith("bias"):
        return _WEIGHT_STD
    return float((_QUERY_GAIN if "q_proj" in name or "k_proj" in name else 1.0) / inputs**0.5)


def _liking(vocab_size: int) -> float:
    """Factor by which a token's logit must vary more than others' to be the largest once in `_STOP_EVERY` tokens."""
    normal = NormalDist()
    return normal.inv_cdf(1 - 0.5 / vocab_size) / normal.inv_cdf(1 - 1 / _STOP_EVERY)


def random_pictures(count: int, seed: int = 0) -> torch.Tensor:
    """(count, 448, 448, 3) uint8 on the CPU: soft blobs of colour, each picture of another contrast and grain."""
    generator = torch.Generator().manual_seed(seed)
    pictures = []
    for _ in range(count):
        cells = int(torch.randint(2, 64, (), generator=generator))
        contrast = 0.2 + 0.8 * torch.rand((), generator=generator)
        mean = torch.rand(3, 1, 1, generator=generator)
        blobs = torch.rand(1, 3, cells, cells, generator=generator) - 0.5
        smooth = functional.interpolate(blobs, size=(448, 448), mode="bicubic")[0]
        pictures.append(((mean + contrast * smooth).clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0))
    return torch.stack(pictures)
