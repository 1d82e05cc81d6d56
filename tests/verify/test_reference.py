"""transformers' modules over the weights of a network: none is missing, each in its place, nothing stored twice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from support.golden import golden_checkpoint
from support.tiny_checkpoints import ANY_TOKEN, write_random_checkpoint

from artimuse_actor.checkpoint.checkpoint import Checkpoint
from artimuse_actor.checkpoint.network_config import expected_shapes
from artimuse_actor.engine.network import Network
from artimuse_actor.engine.weights import build_network, load_network

if TYPE_CHECKING:
    from transformers import InternVLForConditionalGeneration

CPU = torch.device("cpu")


def reference_network(network: Network) -> InternVLForConditionalGeneration:
    from artimuse_actor.verify import reference  # for the one worker that runs these tests

    return reference.reference_network(network, ANY_TOKEN)


def test_a_fused_qkv_is_split_into_three_equal_parts_in_that_order() -> None:
    network = load_network(Checkpoint(golden_checkpoint("artimuse")), device=CPU, dtype=torch.float32)
    state = reference_network(network).state_dict()
    fused = network.get_parameter("vision_model.encoder.layers.1.attn.qkv.weight")
    parts = [state[f"model.vision_tower.encoder.layer.1.attention.{part}_proj.weight"] for part in "qkv"]
    for part, rows in zip(parts, fused.split(64), strict=True):
        assert torch.equal(part, rows)


@pytest.mark.parametrize("tied", [False, True])
def test_every_weight_is_that_of_the_network(tmp_path: Path, tied: bool) -> None:
    folder = write_random_checkpoint(tmp_path / "checkpoint", language={"tie_word_embeddings": tied})
    network = load_network(Checkpoint(folder), device=CPU, dtype=torch.bfloat16)
    reference = reference_network(network)
    ours = {tensor.untyped_storage().data_ptr() for tensor in network.parameters()}
    assert {tensor.untyped_storage().data_ptr() for tensor in reference.parameters()} == ours
    assert {tensor.dtype for tensor in reference.parameters()} == {torch.bfloat16}
    assert reference.model.language_model.rotary_emb.inv_freq.dtype == torch.float32
    assert not reference.training


def test_each_published_tensor_has_names_of_its_own() -> None:
    from artimuse_actor.verify.reference import transformers_names

    config = Checkpoint(golden_checkpoint("artimuse")).config
    names = [name for published in expected_shapes(config) for name in transformers_names(published)]
    assert len(names) == len(set(names))
    with pytest.raises(KeyError, match=r"vision_model\.head\.weight"):
        transformers_names("vision_model.head.weight")


def test_no_attention_is_ever_fetched_from_a_hub() -> None:
    # transformers takes kernels of the package `kernels` from a hub where flash_attention_2 is asked for.
    config = Checkpoint(golden_checkpoint("artimuse")).config
    network = build_network(config, device=torch.device("meta"), dtype=torch.bfloat16)
    found = reference_network(network).config
    assert {part._attn_implementation for part in (found, found.vision_config, found.text_config)} == {"sdpa"}
