from __future__ import annotations

import pytest
import torch
from support.golden import golden_checkpoint
from torch import nn

from artimuse_actor import ArtiMuse
from artimuse_actor.checkpoint.checkpoint import Checkpoint
from artimuse_actor.engine.joined_linear import JoinedLinear, join_weights, pad_rows, padded_rows
from artimuse_actor.engine.weights import HEAD_ROWS, build_network


def random_modules(*sizes: int, bias: bool = True) -> list[nn.Linear]:
    generator = torch.Generator().manual_seed(0)
    modules = [nn.Linear(6, size, bias=bias) for size in sizes]
    join_weights(modules)
    for module in modules:
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return modules


@pytest.mark.parametrize("bias", [True, False])
def test_one_product_gives_what_each_module_gives(bias: bool) -> None:
    modules = random_modules(8, 3, 5, bias=bias)
    hidden = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(1))
    for chosen in (modules, modules[1:], modules[:1]):
        parts = JoinedLinear(chosen)(hidden)
        for part, module in zip(parts, chosen, strict=True):
            torch.testing.assert_close(part, module(hidden))


def test_in_training_gradients_reach_the_modules_own_weights() -> None:
    modules = random_modules(8, 3)
    for module in modules:
        module.requires_grad_(True)
    first, second = JoinedLinear(modules)(torch.ones(1, 6))
    (first.sum() + second.sum()).backward()
    assert all(module.weight.grad is not None for module in modules)


def test_weights_that_are_apart_are_refused() -> None:
    modules = [nn.Linear(6, 8), nn.Linear(6, 3)]
    with pytest.raises(ValueError, match="build_network joins them"):
        JoinedLinear(modules)
    modules = random_modules(8, 3)
    with pytest.raises(ValueError, match="build_network joins them"):
        JoinedLinear(modules[::-1])


def test_padding_leaves_a_layer_as_it_was_and_is_zero() -> None:
    module = nn.Linear(6, 5, bias=False)
    pad_rows(module, 4)
    module.weight.fill_(1)
    padded = padded_rows(module.weight)
    assert padded.tolist() == [[1.0] * 6] * 5 + [[0.0] * 6] * 3


def test_a_loaded_network_stores_no_weight_twice() -> None:
    config = Checkpoint(golden_checkpoint("artimuse")).config
    network = build_network(config, device=torch.device("cpu"), dtype=torch.float32)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in network.parameters()}
    stored = sum(storage.nbytes() for storage in storages.values())
    padding = (-config.language.vocab_size % HEAD_ROWS) * config.language.hidden_size * 4
    assert stored == sum(tensor.nbytes for tensor in network.parameters()) + padding


def test_the_heads_padding_is_never_the_likeliest_token(models: dict[str, ArtiMuse]) -> None:
    model = models["artimuse"].model
    head = model.network.language_model.lm_head
    rows, vocabulary = padded_rows(head.weight), len(head.weight)
    assert (len(rows) % HEAD_ROWS, vocabulary % HEAD_ROWS) == (0, 3)
    with torch.inference_mode():
        hidden = -head.weight.sum(dim=0, keepdim=True)  # all logits are below those of the padding
        logits = head(hidden)
        assert logits.max() < 0 or model.next_tokens(hidden).item() == logits.argmax().item()
        assert model.next_tokens(hidden).item() < vocabulary
