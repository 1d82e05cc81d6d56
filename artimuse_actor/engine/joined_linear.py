"""Weights of linear layers over the same input, one after the other in memory, so that they are one product.

One matrix product with more columns runs nearer to a device's peak than two or three, and reads its input once. The
modules keep their own weights, which are views of the joined ones: nothing is stored twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from artimuse_actor.engine.fp8_products import Float8Rows
from artimuse_actor.engine.quantised import QuantisedLinear


class JoinedLinear:
    """Several linear layers as one, over weights that `join_weights` has put together.

    Quantised ones stay several; where products are of 8 bits, their input is rounded once.
    """

    def __init__(self, modules: Sequence[nn.Linear]) -> None:
        """Find the joined weights.

        Raises:
            ValueError: they are not joined.
        """
        self._modules, self._weight, self._bias = modules, None, None
        self._quantised = [module for module in modules if isinstance(module, QuantisedLinear)]
        if self._quantised:
            return
        self._sizes = [module.out_features for module in modules]
        self._weight = _joined([module.weight for module in modules])
        if modules[0].bias is not None:
            self._bias = _joined([module.bias for module in modules])

    def whole(self, hidden: torch.Tensor) -> torch.Tensor:
        """What they give for (…, C), one after the other: (…, N)."""
        if self._weight is None or self._modules[0].weight.requires_grad:
            return torch.cat(self(hidden), dim=-1)
        return functional.linear(hidden, self._weight, self._bias)

    def __call__(self, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What each of them gives for (…, C): views (…, N) of one tensor, unless the weights are being trained."""
        if self._quantised and self._quantised[0].kind == "fp8-products":
            rows = Float8Rows.of(hidden.flatten(end_dim=-2))
            products = (module.times(rows, hidden.dtype) for module in self._quantised)
            return tuple(product.view(*hidden.shape[:-1], -1) for product in products)
        if self._weight is None or self._modules[0].weight.requires_grad:
            return tuple(module(hidden) for module in self._modules)
        parts: tuple[torch.Tensor, ...] = self.whole(hidden).split(self._sizes, dim=-1)
        return parts


def join_weights(modules: Sequence[nn.Linear]) -> None:
    """Move the weights and biases of layers into one tensor each; their values are lost."""
    for name in ("weight", "bias"):
        parts: list[torch.Tensor] = [part for module in modules if (part := getattr(module, name)) is not None]
        if parts:
            joined = parts[0].new_empty(sum(map(len, parts)), *parts[0].shape[1:])
            for module, part in zip(modules, joined.split([len(part) for part in parts]), strict=True):
                setattr(module, name, nn.Parameter(part, requires_grad=False))


def pad_rows(module: nn.Module, multiple: int) -> None:
    """Let a layer's weight be the first rows of a tensor whose number of rows is a multiple; its values are lost."""
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    padded = weight.new_zeros(-(-len(weight) // multiple) * multiple, *weight.shape[1:])
    module.weight = nn.Parameter(padded[: len(weight)], requires_grad=False)


def padded_rows(weight: torch.Tensor) -> torch.Tensor:
    """The whole tensor that `pad_rows` has made."""
    columns = weight.shape[1]
    rows = weight.untyped_storage().nbytes() // weight.element_size() // columns
    return weight.detach().as_strided((rows, columns), (columns, 1))


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The tensor that parts are the rows of."""
    first, start = parts[0].detach(), parts[0].storage_offset()
    for part in parts:
        # Not `data_ptr`, which a fake tensor does not have.
        if part.untyped_storage()._cdata != first.untyped_storage()._cdata or part.storage_offset() != start:
            raise ValueError("The weights do not follow one another; build_network joins them.")
        start += part.numel()
    rows = sum(map(len, parts))
    return first.as_strided((rows, *first.shape[1:]), first.stride())
