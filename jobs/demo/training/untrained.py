"""A checkpoint before its training: the published files with small numbers in them, and weights to begin with."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from artimuse_actor.checkpoint.checkpoint import CONFIG_FILE, SINGLE_FILE
from artimuse_actor.engine.network import Network
from artimuse_actor.engine.scoring import LEVEL_COUNT
from artimuse_actor.protocol.protocols import TURN_END
from jobs.demo.training.tokenizer import PAD


def write_config(folder: Path, token_ids: dict[str, int]) -> None:
    """Write `config.json` and `generation_config.json` as they are published, with small numbers."""
    language = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(token_ids),
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "bos_token_id": token_ids[PAD],
        "eos_token_id": token_ids[TURN_END],
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    vision = {
        "architectures": ["InternVisionModel"],
        "model_type": "intern_vit_6b",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 448,
        "patch_size": 14,
        "num_channels": 3,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "norm_type": "layer_norm",
        "qkv_bias": True,
        "qk_normalization": False,
        "attention_dropout": 0.0,
        "drop_path_rate": 0.0,
        "dropout": 0.0,
        "torch_dtype": "bfloat16",
    }
    config = {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": 448,
        "max_dynamic_patch": 12,
        "min_dynamic_patch": 1,
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_thumbnail": True,
        "llm_config": language,
        "vision_config": vision,
    }
    generation = {"_from_model_config": True, "eos_token_id": token_ids[TURN_END]}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(generation) + "\n")


def initialise(network: Network, level_ids: Sequence[int]) -> None:
    """Random weights that keep the size of what passes through them; near places and levels begin alike."""
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 1:  # of norms and layer scales
            nn.init.ones_(parameter)
        elif "embed" in name and "patch" not in name:
            nn.init.normal_(parameter, std=0.3)
        else:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    places = network.vision_model.embeddings.position_embedding  # (1, 1 + 32², V)
    side = math.isqrt(places.shape[1] - 1)
    along = _waves(side, 6)  # (32, 6)
    grid = torch.cat([along.repeat_interleave(side, 0), along.repeat(side, 1)], dim=1)  # (32², 12), row by row
    places[0, 1:] = grid @ (torch.randn(grid.shape[1], places.shape[2]) * 0.2)
    rows = network.language_model.lm_head.weight  # (vocabulary, C)
    basis = _waves(LEVEL_COUNT, 8) / torch.arange(1, 9)  # (101, 8)
    rows[torch.tensor(level_ids)] = basis @ (torch.randn(8, rows.shape[1]) * rows.shape[1] ** -0.5)


def _waves(points: int, count: int) -> torch.Tensor:
    """(points, count): cosines of half a turn, one turn, one and a half, … over that many points."""
    return torch.cos(torch.linspace(0, math.pi, points)[:, None] * torch.arange(1, count + 1))


def write_weights(folder: Path, network: Network) -> None:
    """Write `model.safetensors` in bfloat16."""
    rounded = {name: tensor.detach().to(torch.bfloat16) for name, tensor in network.named_parameters()}
    save_file(rounded, folder / SINGLE_FILE, metadata={"format": "pt"})
