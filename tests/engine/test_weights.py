from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.golden import golden_checkpoint
from support.tiny_checkpoints import ANY_TOKEN, change_tensors, copy_checkpoint, write_random_checkpoint

from artimuse_actor.checkpoint.checkpoint import SINGLE_FILE, Checkpoint
from artimuse_actor.checkpoint.network_config import expected_shapes
from artimuse_actor.engine.weights import build_network, load_network, module_names, to_published
from artimuse_actor.errors import CheckpointError

CPU = torch.device("cpu")


def test_published_names_and_transformers_parameters_correspond_one_to_one() -> None:
    config = Checkpoint(golden_checkpoint("artimuse")).config
    network = build_network(config, image_token_id=ANY_TOKEN, device=torch.device("meta"), dtype=torch.float32)
    targets = Counter(name for published in expected_shapes(config) for name in module_names(published))
    assert set(targets.values()) == {1}
    assert set(targets) == {name for name, _ in network.named_parameters()} == set(network.state_dict())


def test_expected_shapes_are_the_shapes_of_transformers_parameters() -> None:
    config = Checkpoint(golden_checkpoint("unipercept")).config
    network = build_network(config, image_token_id=ANY_TOKEN, device=torch.device("meta"), dtype=torch.float32)
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    for published, shape in expected_shapes(config).items():
        parts = module_names(published)
        for part in parts:
            assert shapes[part] == (shape[0] // len(parts), *shape[1:]), published


def test_a_fused_qkv_is_split_into_three_equal_parts_in_that_order() -> None:
    folder = golden_checkpoint("artimuse")
    state = load_network(Checkpoint(folder), image_token_id=ANY_TOKEN, device=CPU, dtype=torch.float32).state_dict()
    fused = load_file(folder / SINGLE_FILE)["vision_model.encoder.layers.1.attn.qkv.weight"]
    parts = [state[f"model.vision_tower.encoder.layer.1.attention.{part}_proj.weight"] for part in "qkv"]
    for part, rows in zip(parts, fused.split(64), strict=True):
        assert torch.equal(part, rows.float())


@pytest.mark.parametrize("tied", [False, True])
def test_a_loaded_checkpoint_is_written_back_as_it_was(tmp_path: Path, tied: bool) -> None:
    folder = write_random_checkpoint(tmp_path / "checkpoint", language={"tie_word_embeddings": tied})
    checkpoint = Checkpoint(folder)
    network = load_network(checkpoint, image_token_id=ANY_TOKEN, device=CPU, dtype=torch.float32)
    written = dict(to_published(network.state_dict(), expected_shapes(checkpoint.config)))
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
        network = load_network(Checkpoint(folder), image_token_id=ANY_TOKEN, device=CPU, dtype=asked)
        loaded = network.state_dict()[module_names(name)[0]]
        assert loaded.dtype == asked
        assert torch.equal(loaded, tensor.to(dtype).to(asked))


def test_a_loaded_network_only_infers() -> None:
    checkpoint = Checkpoint(golden_checkpoint("artimuse"))
    network = load_network(checkpoint, image_token_id=ANY_TOKEN, device=CPU, dtype=torch.float32)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(parameter.is_meta for parameter in network.parameters())


def test_a_tensor_that_no_module_takes_has_no_name_in_transformers() -> None:
    with pytest.raises(KeyError, match=r"vision_model\.head\.weight"):
        module_names("vision_model.head.weight")


def test_a_file_that_changes_after_the_check_is_a_checkpoint_error(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path / "checkpoint")
    checkpoint = Checkpoint(folder)
    weights = folder / SINGLE_FILE
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read: .*Download it again"):
        load_network(checkpoint, image_token_id=ANY_TOKEN, device=CPU, dtype=torch.float32)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read: .*Download it again"):
        load_network(checkpoint, image_token_id=ANY_TOKEN, device=CPU, dtype=torch.float32)
