"""transformers' own InternVL over the weights of a network: the slow, obvious reference of our own passes.

The names differ, and so do three defaults (tied embeddings, attention bias of the vision tower, rotary settings); each
gives plausible scores when it is wrong, so all are set here explicitly and the weights are handed over strictly.
"""

from __future__ import annotations

import re
from typing import Final

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, Qwen2Config

from artimuse_actor.checkpoint.network_config import NetworkConfig
from artimuse_actor.engine.network import Network
from artimuse_actor.protocol.protocols import IMAGE_TOKENS

_VISION = "model.vision_tower"
_RENAMES: Final[tuple[tuple[str, str], ...]] = (
    (r"^vision_model\.embeddings\.class_embedding$", f"{_VISION}.embeddings.cls_token"),
    (r"^vision_model\.embeddings\.patch_embedding\.", f"{_VISION}.embeddings.patch_embeddings.projection."),
    (r"^vision_model\.embeddings\.position_embedding$", f"{_VISION}.embeddings.position_embeddings"),
    (
        r"^vision_model\.encoder\.layers\.(\d+)\.attn\.proj\.",
        rf"{_VISION}.encoder.layer.\1.attention.projection_layer.",
    ),
    (r"^vision_model\.encoder\.layers\.(\d+)\.norm1\.", rf"{_VISION}.encoder.layer.\1.layernorm_before."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.norm2\.", rf"{_VISION}.encoder.layer.\1.layernorm_after."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.ls([12])$", rf"{_VISION}.encoder.layer.\1.lambda_\2"),
    (r"^vision_model\.encoder\.layers\.(\d+)\.mlp\.", rf"{_VISION}.encoder.layer.\1.mlp."),
    (r"^mlp1\.0\.", "model.multi_modal_projector.layer_norm."),
    (r"^mlp1\.1\.", "model.multi_modal_projector.linear_1."),
    (r"^mlp1\.3\.", "model.multi_modal_projector.linear_2."),
    (r"^language_model\.model\.", "model.language_model."),
    (r"^language_model\.lm_head\.", "lm_head."),
)
_FUSED_QKV = re.compile(r"^vision_model\.encoder\.layers\.(\d+)\.attn\.qkv\.(weight|bias)$")


def reference_network(network: Network, image_token_id: int) -> InternVLForConditionalGeneration:
    """Transformers' modules over a network's own weights: nothing is stored twice.

    Args:
        network: not quantised.
        image_token_id: id of `<IMG_CONTEXT>`.
    """
    with torch.device("meta"):
        reference = InternVLForConditionalGeneration(_transformers_config(network.config, image_token_id))
    weights: dict[str, torch.Tensor] = {}
    for published, tensor in network.state_dict().items():
        targets = transformers_names(published)
        weights |= dict(zip(targets, tensor.chunk(len(targets)), strict=True))
    reference.load_state_dict(weights, assign=True)
    # No checkpoint stores the rotary frequencies, and a cast would round them: they are computed where they are used.
    language = reference.model.language_model
    with torch.device(network.language_model.lm_head.weight.device):
        language.rotary_emb = type(language.rotary_emb)(config=language.config)
    reference.requires_grad_(False)
    return reference.eval()


def transformers_names(published: str) -> tuple[str, ...]:
    """Transformers' names of one published tensor: three for a fused qkv, which is split along dim 0, else one."""
    if match := _FUSED_QKV.match(published):
        layer, kind = match.groups()
        return tuple(f"{_VISION}.encoder.layer.{layer}.attention.{part}_proj.{kind}" for part in "qkv")
    for pattern, replacement in _RENAMES:
        renamed, count = re.subn(pattern, replacement, published)
        if count:
            return (renamed,)
    raise KeyError(published)


def _transformers_config(config: NetworkConfig, image_token_id: int) -> InternVLConfig:
    vision, language = config.vision, config.language
    return InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            num_hidden_layers=vision.num_layers,
            num_attention_heads=vision.num_heads,
            attention_bias=vision.qkv_bias,
            image_size=[vision.image_size, vision.image_size],
            patch_size=[vision.patch_size, vision.patch_size],
            layer_norm_eps=vision.layer_norm_eps,
            norm_type="layer_norm",
            use_mean_pooling=True,  # this removes the final norm
        ),
        text_config=Qwen2Config(
            hidden_size=language.hidden_size,
            intermediate_size=language.intermediate_size,
            num_hidden_layers=language.num_layers,
            num_attention_heads=language.num_heads,
            num_key_value_heads=language.num_kv_heads,
            vocab_size=language.vocab_size,
            rms_norm_eps=language.rms_norm_eps,
            max_position_embeddings=language.max_position_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": language.rope_theta},
            tie_word_embeddings=language.tie_word_embeddings,
        ),
        image_token_id=image_token_id,
        image_seq_length=IMAGE_TOKENS,
        downsample_ratio=0.5,
        tie_word_embeddings=language.tie_word_embeddings,
        # Of the vision tower. Never flash-attn: without its package, transformers fetches kernels from a hub.
        attn_implementation="sdpa",
    )
