"""The engine's passes on fake tensors of device "cuda", with any build of torch: nothing is computed, all is checked.

What shapes, dtypes, devices and operations say can be found without a GPU: a tensor on the wrong device, a dtype that
does not match, an argument that a kernel would refuse, a copy or a read-back within a step that is captured. And they
can be counted: kernels, bytes, floating-point operations, waits of the host, and the peak of live tensors.

What a build without CUDA cannot dispatch has doubles in `bench.engine.fake_kernels`.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn import functional
from torch.nn.attention import bias
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from artimuse_actor.checkpoint.network_config import NetworkConfig
from artimuse_actor.engine.attention import Pages
from artimuse_actor.engine.layer_kernels import PlainKernels
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.engine.weights import build_network
from artimuse_actor.verify.counted_flops import flop_counter
from bench.engine.fake_kernels import PAGED_ATTENTION, Indexing, LowerRight, rms_norm, sdpa
from bench.engine.fake_streams import FakeStreams

CUDA: Final = torch.device("cuda:0")
# fmt: off
_VIEWS: Final = frozenset({
    "device", "view", "_unsafe_view", "transpose", "t", "expand", "unsqueeze", "squeeze", "slice", "split", "permute",
    "select", "detach", "alias", "as_strided", "unbind", "split_with_sizes", "empty", "empty_strided", "_reshape_alias",
    "lift_fresh", "new_empty", "empty_like", "unflatten", "unfold", "chunk",
})
_WAITS: Final = frozenset({
    "_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "is_nonzero", "_unique2",
})
# fmt: on
_LOOK_UPS: Final = frozenset({"embedding", "index", "index_select", "gather"})


@dataclass(frozen=True)
class Counts:
    """What one pass does on the device.

    Attributes:
        flops: by operation, in products and attention.
        kernels: launches, by operation.
        bytes: read and written, by operation.
        waits: operations by which the host waits for the device.
        copies: tensors copied to the device.
        copied_bytes: of them, where the passes wait in line behind the copy.
        ahead_bytes: of them, on another stream than that of the passes.
        peak_bytes: of tensors alive at once, weights and inputs aside.
    """

    flops: Counter[str]
    kernels: Counter[str]
    bytes: Counter[str]
    waits: tuple[str, ...]
    copies: int
    copied_bytes: int
    ahead_bytes: int
    peak_bytes: int

    @property
    def launches(self) -> int:
        """All kernels."""
        return sum(self.kernels.values())


@contextmanager
def fake_cuda() -> Iterator[FakeStreams]:
    """New tensors of device `cuda` are fake, and the operations that this build lacks are checked doubles."""
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        streams = stack.enter_context(FakeStreams().in_place())
        stack.enter_context(Indexing())
        stack.enter_context(patch.object(functional, "scaled_dot_product_attention", sdpa))
        stack.enter_context(patch.object(functional, "rms_norm", rms_norm))
        stack.enter_context(patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor))
        stack.enter_context(patch.object(bias, "causal_lower_right", LowerRight))
        yield streams


def fake_model(
    config: NetworkConfig, pages: Pages, dtype: torch.dtype = torch.bfloat16, quantize: str | None = None
) -> VisionLanguageModel:
    """A network of these sizes on the fake device; call it within `fake_cuda`."""
    with unset_fake_temporarily():  # modules cannot change their device or dtype under it
        network = build_network(config, device=torch.device("meta"), dtype=dtype, quantize=quantize)
    storages: dict[int, torch.Tensor] = {}
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(_fake(parameter, storages), requires_grad=False)
        for name, tensor in module._buffers.items():
            if tensor is not None:
                module._buffers[name] = _fake(tensor, storages)
    return VisionLanguageModel(network, pages, PlainKernels)


def _fake(tensor: torch.Tensor, storages: dict[int, torch.Tensor]) -> torch.Tensor:
    """A fake tensor like this one; those that share their memory still do."""
    storage = tensor.untyped_storage()
    if storage._cdata not in storages:
        count = storage.nbytes() // tensor.element_size()
        storages[storage._cdata] = torch.empty(count, dtype=tensor.dtype, device=CUDA)
    return storages[storage._cdata].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def count(work: Callable[[], object]) -> Counts:
    """What a pass does; call it within `fake_cuda`."""
    recorder = _Recorder()
    # Not in inference mode, in which composite operations arrive whole.
    with flop_counter() as flops, recorder, torch.no_grad():
        work()
    by_operation: Counter[str] = Counter({PAGED_ATTENTION: recorder.paged_flops} if recorder.paged_flops else {})
    for operation, number in flops.get_flop_counts().get("Global", {}).items():
        by_operation[str(operation).split(".")[-1]] += int(number)
    return Counts(
        flops=by_operation,
        kernels=recorder.kernels,
        bytes=recorder.bytes,
        waits=tuple(recorder.waits),
        copies=recorder.copies,
        copied_bytes=recorder.copied_bytes,
        ahead_bytes=recorder.ahead_bytes,
        peak_bytes=recorder.peak_bytes,
    )


class _Recorder(TorchDispatchMode):
    """Counts operations on the device: what is no view is one kernel."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.waits: list[str] = []
        self.copies = self.copied_bytes = self.ahead_bytes = 0
        self.peak_bytes = self.paged_flops = self._live_bytes = 0
        self._passes = torch.cuda.current_stream(CUDA)
        self._storages: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        inputs, outputs = _tensors((args, kwargs)), _tensors(out)
        devices = {tensor.device.type for tensor in (*inputs, *outputs)}
        if "cuda" not in devices:
            return out
        numbers = [tensor for tensor in inputs if tensor.dim() == 0]
        assert {t.device.type for t in (*inputs, *outputs) if not any(t is n for n in numbers)} <= {"cuda"} or name in (
            "_to_copy",
            "copy_",
        ), f"{name} mixes devices"
        is_copy = name in ("_to_copy", "copy_") and len(devices) > 1
        masked = name.startswith("index") and any(
            part.dtype in (torch.bool, torch.uint8) for part in _tensors(args[1:2])
        )
        if name in _WAITS or masked or (is_copy and outputs[0].device.type == "cpu"):
            self.waits.append(name)
        if is_copy and outputs[0].is_cuda:
            self.copies += 1
            if torch.cuda.current_stream(CUDA) is self._passes:
                self.copied_bytes += _size(outputs[0])
            else:
                self.ahead_bytes += _size(outputs[0])
        known = {tensor.untyped_storage()._cdata for tensor in inputs}
        for tensor in outputs:
            if tensor.untyped_storage()._cdata not in known:  # neither a view nor done in place
                self._track(tensor)
        if name == PAGED_ATTENTION:
            self.paged_flops += 4 * inputs[0].numel() * inputs[3].shape[1] * inputs[1].shape[1]
        if name not in _VIEWS:
            self.kernels[name] += 1
            self.bytes[name] += _traffic(name, inputs, outputs)
        return out

    def _track(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        seen = self._storages.get(storage._cdata)
        if not tensor.is_cuda or (seen is not None and seen() is not None):
            return
        size = -(-storage.nbytes() // 512) * 512  # as torch's allocator rounds
        self._storages[storage._cdata] = weakref.ref(storage)
        weakref.finalize(storage, self._free, size)
        self._live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)

    def _free(self, size: int) -> None:
        self._live_bytes -= size


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _traffic(name: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> int:
    if name in _LOOK_UPS:  # of the table only what is taken
        return 2 * sum(map(_size, outputs))
    if name == PAGED_ATTENTION:  # all pages of the table, of keys and of values
        query, keys, _, table = inputs
        return 2 * _size(query) + 2 * table.numel() * _size(keys) // len(keys)
    if name.startswith(("index_put", "_index_put")):
        return 2 * _size(inputs[-1])
    if name.startswith(("fill_", "zero", "arange", "full", "ones", "index_fill")):
        return sum(map(_size, outputs))
    if name.endswith("_"):  # in place: the output is the first input
        return sum(map(_size, inputs)) + (_size(inputs[0]) if name != "copy_" else 0)
    return sum(map(_size, inputs)) + sum(map(_size, outputs))


def _size(tensor: torch.Tensor) -> int:
    """Bytes that a kernel touches; a dimension that is expanded counts once."""
    size = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        size *= length if stride else 1
    return size
