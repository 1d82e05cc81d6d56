"""Checkpoints in the published format, small enough to write for one test: golden copies and random ones."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from support.golden import golden_checkpoint

from artimuse_actor.checkpoint.checkpoint import CONFIG_FILE, INDEX_FILE, SINGLE_FILE
from artimuse_actor.checkpoint.network_config import NetworkConfig
from artimuse_actor.engine.weights import build_network

OTHER_NETWORKS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "deeper": {"vision": {"num_hidden_layers": 4}, "language": {"num_hidden_layers": 5}},
    "one layer each": {"vision": {"num_hidden_layers": 1}, "language": {"num_hidden_layers": 1}},
    "wider": {
        "vision": {"hidden_size": 96, "intermediate_size": 80, "num_attention_heads": 8},
        "language": {"hidden_size": 128, "intermediate_size": 100},
    },
    "every head its own keys": {"language": {"num_attention_heads": 6, "num_key_value_heads": 6}},
    "all heads share their keys": {"language": {"num_attention_heads": 8, "num_key_value_heads": 1}},
    "no bias in the vision tower's attention": {"vision": {"qkv_bias": False}},
    "other rotary base": {"language": {"rope_theta": 10000.0}},
    "rope scaling, which the published numbers ignore": {
        "language": {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 256}
    },
    "other epsilons": {"vision": {"layer_norm_eps": 1e-2}, "language": {"rms_norm_eps": 1e-2}},
    "other vocabulary": {"language": {"vocab_size": 1303}},
    "tied embeddings": {"language": {"tie_word_embeddings": True}},
}


ANY_TOKEN = 7


def copy_checkpoint(folder: Path, protocol: str = "artimuse") -> Path:
    """A writable copy of a golden checkpoint."""
    return Path(shutil.copytree(golden_checkpoint(protocol), folder))


def change_config(folder: Path, vision: Mapping[str, Any] = {}, language: Mapping[str, Any] = {}, **top: Any) -> None:
    """Overwrite fields of a checkpoint's config."""
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["vision_config"].update(vision)
    config["llm_config"].update(language)
    (folder / CONFIG_FILE).write_text(json.dumps(config | top))


def change_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace, add or (None) remove tensors; `__` in a keyword stands for the `.` of the name."""
    tensors: dict[str, torch.Tensor | None] = dict(load_file(folder / SINGLE_FILE))
    tensors |= {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / SINGLE_FILE)


def split_into_shards(folder: Path, shards: int) -> list[Path]:
    """Cut `model.safetensors` into several files and an index, as large checkpoints are published."""
    tensors = load_file(folder / SINGLE_FILE)
    (folder / SINGLE_FILE).unlink()
    files = [folder / f"model-{n:05}-of-{shards:05}.safetensors" for n in range(1, shards + 1)]
    places = {name: files[n % shards] for n, name in enumerate(sorted(tensors))}
    for file in files:
        save_file({name: tensors[name] for name, place in places.items() if place == file}, file)
    write_index(folder, {name: place.name for name, place in places.items()})
    return files


def write_index(folder: Path, weight_map: object) -> None:
    """Write the index file of a sharded checkpoint."""
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))


def write_random_checkpoint(folder: Path, *, vision: Mapping[str, Any] = {}, language: Mapping[str, Any] = {}) -> Path:
    """A checkpoint of other sizes than the golden one, with random weights large enough to tell pictures apart."""
    copy_checkpoint(folder)
    change_config(folder, vision, language)
    config = NetworkConfig.from_file(folder / CONFIG_FILE)
    network = build_network(config, device=torch.device("cpu"), dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        parameter.copy_(_random_values(name, parameter.shape, generator))
    save_file(dict(network.named_parameters()), folder / SINGLE_FILE)
    return folder


def _random_values(name: str, shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    values: torch.Tensor = torch.randn(tuple(shape), generator=generator)
    if len(shape) == 1 and not name.endswith("bias"):  # of norms and layer scales
        return values.mul(0.2).add(1)
    if len(shape) < 2 or name.endswith(("class_embedding", "position_embedding")):
        return values.mul(0.3)
    if "lm_head" in name or "embed_tokens" in name:
        return values.mul(4 * shape[-1] ** -0.5)
    return values.mul(math.prod(shape[1:]) ** -0.5)
