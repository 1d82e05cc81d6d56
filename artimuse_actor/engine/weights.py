"""Published tensors → the network on its device; `network.py` has the same names.

Weights that are multiplied at once are joined in memory, those of the language model quantised on request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open

from artimuse_actor.checkpoint.checkpoint import Checkpoint
from artimuse_actor.checkpoint.network_config import NetworkConfig
from artimuse_actor.engine.joined_linear import join_weights, pad_rows
from artimuse_actor.engine.network import Network
from artimuse_actor.engine.quantised import QuantisedLinear, quantise_layers
from artimuse_actor.errors import CheckpointError

HEAD_ROWS: Final = 128
"""The head's rows are padded to a multiple: products with a vocabulary of 151,674 take a slow kernel."""


def build_network(
    config: NetworkConfig, *, device: torch.device, dtype: torch.dtype, quantize: str | None = None
) -> Network:
    """A network of these sizes, with uninitialised weights.

    Args:
        config: sizes as the checkpoint gives them.
        device: where the weights go.
        dtype: of the weights.
        quantize: kind of `QuantisedLinear` in place of the language model's linear layers; None for all bits.
    """
    with torch.device("meta"):
        network = Network(config)
    network.to(dtype=dtype)
    if quantize:
        quantise_layers(network.language_model.model.layers, quantize)
    _allocate(network, device)
    _join(network, is_quantised=quantize is not None)
    network.requires_grad_(False)
    return network.eval()


def _allocate(network: Network, device: torch.device) -> None:
    """Uninitialised weights on a device, like `Module.to_empty`, which imports sympy for it."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            setattr(module, name, torch.nn.Parameter(empty, requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))


def _join(network: Network, *, is_quantised: bool) -> None:
    """Put weights together that the passes multiply at once; see `joined_linear`."""
    language = network.language_model
    for layer in () if is_quantised else language.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        join_weights([attention.q_proj, attention.k_proj, attention.v_proj])
        join_weights([mlp.gate_proj, mlp.up_proj])
    pad_rows(language.lm_head, HEAD_ROWS)
    if network.config.language.tie_word_embeddings:  # not before: an empty allocation would untie them
        language.model.embed_tokens.weight = language.lm_head.weight


def load_network(
    checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype, quantize: str | None = None
) -> Network:
    """The checkpoint's network on a device; arguments as of `build_network`. Weights are quantised as they are read.

    Raises:
        CheckpointError: a file's data cannot be read.
    """
    network = build_network(checkpoint.config, device=device, dtype=dtype, quantize=quantize)
    parameters = dict(network.named_parameters())
    quantised = {
        f"{name}.weight": module for name, module in network.named_modules() if isinstance(module, QuantisedLinear)
    }
    assert parameters.keys() | quantised.keys() == checkpoint.tensors.keys()  # nothing is left uninitialised
    by_file: dict[Path, list[str]] = {}
    for name, entry in checkpoint.tensors.items():
        by_file.setdefault(entry.file, []).append(name)
    for path, names in by_file.items():
        for name, tensor in _read_tensors(path, names):
            if name in quantised:
                quantised[name].store(tensor)
            else:
                parameters[name].copy_(tensor)
    return network


def _read_tensors(path: Path, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in names:
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}. Download it again.") from error
