"""Published tensors → transformers' InternVL modules, one to one once the fused qkv is split.

The names differ, and so do three defaults (tied embeddings, attention bias of the vision tower, rotary settings); each
gives plausible scores when it is wrong, so all are set here explicitly and the state is loaded strictly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, Qwen2Config

from artimuse_actor.checkpoint.checkpoint import Checkpoint
from artimuse_actor.checkpoint.network_config import NetworkConfig
from artimuse_actor.engine.joined_linear import join_weights, pad_rows
from artimuse_actor.engine.quantised import QuantisedLinear, quantise_layers
from artimuse_actor.errors import CheckpointError
from artimuse_actor.protocol.protocols import IMAGE_TOKENS

HEAD_ROWS: Final = 128
"""The head's rows are padded to a multiple: products with a vocabulary of 151,674 take a slow kernel."""

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


def module_names(published: str) -> tuple[str, ...]:
    """Transformers' names of one published tensor: three for a fused qkv, which is split along dim 0, else one."""
    if match := _FUSED_QKV.match(published):
        layer, kind = match.groups()
        return tuple(f"{_VISION}.encoder.layer.{layer}.attention.{part}_proj.{kind}" for part in "qkv")
    for pattern, replacement in _RENAMES:
        renamed, count = re.subn(pattern, replacement, published)
        if count:
            return (renamed,)
    raise KeyError(published)


def to_published(
    state: Mapping[str, torch.Tensor], published_names: Iterable[str]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The published tensors of a network's state: the inverse of loading, for code that writes checkpoints."""
    for published in published_names:
        yield published, torch.cat([state[name] for name in module_names(published)])


def build_network(
    config: NetworkConfig,
    *,
    image_token_id: int,
    device: torch.device,
    dtype: torch.dtype,
    quantize: str | None = None,
) -> InternVLForConditionalGeneration:
    """Transformers' modules for these sizes, with uninitialised weights (float32 rotary tables are set).

    Args:
        config: sizes as the checkpoint gives them.
        image_token_id: id of `<IMG_CONTEXT>`.
        device: where the weights go.
        dtype: of the weights; the rotary tables stay float32 in any case.
        quantize: `int8`, `fp8` or `nf4` for the linear layers of the language model.
    """
    with torch.device("meta"):
        network = InternVLForConditionalGeneration(_transformers_config(config, image_token_id))
    network.to(dtype=dtype)
    if quantize:
        quantise_layers(network.model.language_model.layers, quantize)
    network.to_empty(device=device)
    # A cast or an empty allocation ruins the rotary frequencies, which no checkpoint stores: compute them again.
    language = network.model.language_model
    with torch.device(device):
        language.rotary_emb = type(language.rotary_emb)(config=language.config)
    _join(network, is_quantised=quantize is not None)
    network.requires_grad_(False)
    return network.eval()


def _join(network: InternVLForConditionalGeneration, *, is_quantised: bool) -> None:
    """Put weights together that the passes multiply at once; see `joined_linear`."""
    for layer in () if is_quantised else network.model.language_model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        join_weights([attention.q_proj, attention.k_proj, attention.v_proj])
        join_weights([mlp.gate_proj, mlp.up_proj])
    pad_rows(network.lm_head, HEAD_ROWS)
    if network.config.tie_word_embeddings:  # an empty allocation unties them and leaves the head uninitialised
        network.model.language_model.embed_tokens.weight = network.lm_head.weight


def load_network(
    checkpoint: Checkpoint,
    *,
    image_token_id: int,
    device: torch.device,
    dtype: torch.dtype,
    quantize: str | None = None,
) -> InternVLForConditionalGeneration:
    """The checkpoint's network on a device; arguments as of `build_network`. Weights are quantised as they are read.

    Raises:
        CheckpointError: a file's data cannot be read.
    """
    network = build_network(
        checkpoint.config, image_token_id=image_token_id, device=device, dtype=dtype, quantize=quantize
    )
    quantised = {name: module for name, module in network.named_modules() if isinstance(module, QuantisedLinear)}
    wanted = set(network.state_dict(keep_vars=True))
    parameters = dict(network.named_parameters(remove_duplicate=False))
    by_file: dict[Path, list[str]] = {}
    for name, entry in checkpoint.tensors.items():
        by_file.setdefault(entry.file, []).append(name)
    for path, names in by_file.items():
        for published, tensor in _read_tensors(path, names):
            targets = module_names(published)
            for name, part in zip(targets, tensor.chunk(len(targets)), strict=True):
                if name in parameters:
                    parameters[name].copy_(part)
                    wanted.discard(name)
                else:
                    layer = name.removesuffix(".weight")
                    quantised[layer].store(part)
                    wanted -= {f"{layer}.stored", f"{layer}.scale"}
    if checkpoint.config.language.tie_word_embeddings:
        wanted.discard("lm_head.weight")
    if wanted:  # expected_shapes and transformers' modules disagree: ours to fix, never to score with
        raise CheckpointError(f"{checkpoint.folder}: nothing was loaded into {', '.join(sorted(wanted))}.")
    return network


def _read_tensors(path: Path, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in names:
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}. Download it again.") from error


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
