from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.golden import golden_checkpoint
from support.tiny_checkpoints import change_tensors, copy_checkpoint, write_random_checkpoint

from artimuse_actor.checkpoint.checkpoint import SINGLE_FILE, Checkpoint
from artimuse_actor.checkpoint.network_config import expected_shapes
from artimuse_actor.engine.weights import build_network, load_network
from artimuse_actor.errors import CheckpointError

CPU = torch.device("cpu")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_the_parameters_are_the_published_tensors_in_name_and_shape(qkv_bias: bool, tied: bool) -> None:
    config = Checkpoint(golden_checkpoint("artimuse")).config
    config = replace(
        config,
        vision=replace(config.vision, qkv_bias=qkv_bias),
        language=replace(config.language, tie_word_embeddings=tied),
    )
    network = build_network(config, device=torch.device("meta"), dtype=torch.float32)
    assert {name: tuple(tensor.shape) for name, tensor in network.named_parameters()} == expected_shapes(config)
    assert not list(network.buffers())  # which no checkpoint would fill


@pytest.mark.parametrize("tied", [False, True])
def test_a_loaded_checkpoint_is_written_back_as_it_was(tmp_path: Path, tied: bool) -> None:
    folder = write_random_checkpoint(tmp_path / "checkpoint", language={"tie_word_embeddings": tied})
    checkpoint = Checkpoint(folder)
    network = load_network(checkpoint, device=CPU, dtype=torch.float32)
    written = dict(network.named_parameters())
    published = load_file(folder / SINGLE_FILE)
    assert set(written) == set(published)
    assert all(torch.equal(written[name], published[name]) for name in published)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_of_every_float_type_are_loaded_as_asked(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = copy_checkpoint(tmp_path / "checkpoint")
    name = "mlp1.3.weight"
    tensor = load_file(folder / SINGLE_FILE)[name]
    change_tensors(folder, mlp1__3__weight=tensor.to(dtype))
    for asked in (torch.float32, torch.bfloat16):
        network = load_network(Checkpoint(folder), device=CPU, dtype=asked)
        loaded = network.get_parameter(name)
        assert loaded.dtype == asked
        assert torch.equal(loaded, tensor.to(dtype).to(asked))


def test_a_loaded_network_only_infers() -> None:
    checkpoint = Checkpoint(golden_checkpoint("artimuse"))
    network = load_network(checkpoint, device=CPU, dtype=torch.float32)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(parameter.is_meta for parameter in network.parameters())


def test_a_file_that_changes_after_the_check_is_a_checkpoint_error(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path / "checkpoint")
    checkpoint = Checkpoint(folder)
    weights = folder / SINGLE_FILE
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read: .*Download it again"):
        load_network(checkpoint, device=CPU, dtype=torch.float32)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read: .*Download it again"):
        load_network(checkpoint, device=CPU, dtype=torch.float32)
