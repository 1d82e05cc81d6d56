"""Doubles of what only a GPU has, with the documented behaviour, for tests on a CPU.

Attention kernels compute in plain torch and check what the C++ side checks. A captured graph keeps the operations of a
step and repeats them on the same tensors: what is not in its inputs stays as it was, and a host that reads while it
captures is refused, as CUDA refuses it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.engine.kernel_checks import check_kvcache, check_varlen


def varlen_double(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *offsets_and_lengths: Any, **options: Any
) -> torch.Tensor:
    """`torch.nn.attention.varlen.varlen_attn` over pages, row by row; tokens that are not used are never read."""
    check_varlen(query, key, value, *offsets_and_lengths, **options)
    lengths, table = options["seqused_k"].long(), options["block_table"].long()
    return attend_pages(query, key, value, lengths, table)


def kvcache_double(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    cache_seqlens: torch.Tensor,
    block_table: torch.Tensor,
    causal: bool,
    num_splits: int,
) -> torch.Tensor:
    """`flash_attn.flash_attn_with_kvcache`, which first stores the new keys and values."""
    options = {"cache_seqlens": cache_seqlens, "block_table": block_table}
    check_kvcache(q, k_cache, v_cache, k, v, **options, causal=causal, num_splits=num_splits)
    size, lengths, table = k_cache.shape[1], cache_seqlens.long(), block_table.long()
    pages = table.gather(1, (lengths // size).unsqueeze(1)).squeeze(1)
    k_cache.index_put_((pages, lengths % size), k[:, 0])
    v_cache.index_put_((pages, lengths % size), v[:, 0])
    return attend_pages(q[:, 0], k_cache, v_cache, lengths + 1, table).unsqueeze(1)


def attend_pages(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: torch.Tensor, table: torch.Tensor
) -> torch.Tensor:
    """(B, H, D) over the first tokens of each row's pages, in float32; no operation depends on a value."""
    groups = query.shape[1] // key.shape[2]
    used = torch.arange(table.shape[1] * key.shape[1], device=table.device) < lengths.unsqueeze(1)  # (B, W·S)
    keys, values = (pool[table].flatten(1, 2).float() for pool in (key, value))  # (B, W·S, G, D)
    keys, values = (
        torch.where(used[:, :, None, None], part, 0).repeat_interleave(groups, dim=2) for part in (keys, values)
    )
    scores = torch.einsum("bhd,bthd->bht", query.float(), keys) * query.shape[-1] ** -0.5
    weights = scores.masked_fill(~used.unsqueeze(1), -torch.inf).softmax(-1)
    return torch.einsum("bht,bthd->bhd", weights, values).to(query.dtype)


class HostReadError(Exception):
    """The host waits for the device while a graph is captured: cudaErrorStreamCaptureUnsupported."""


HOST_READS = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "masked_select", "_unique2")


class Recording(TorchDispatchMode):
    """Operations with the tensors they read and made.

    A capture computes nothing; this one does, and puts small tensors back as they were. Keys and values it leaves: a
    step that is repeated writes the same.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.done: list[tuple[Any, Any, Any, list[torch.Tensor | None]]] = []
        self._before: list[tuple[torch.Tensor, torch.Tensor]] = []

    def undo(self) -> None:
        """Put back what was overwritten."""
        for tensor, before in reversed(self._before):
            tensor.copy_(before)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        if name in HOST_READS:
            raise HostReadError(name)
        written = [part for part, kind in zip(args, func._schema.arguments, strict=False) if kind.is_write]
        self._before += [(part, part.clone()) for part in tensors_of(written) if part.numel() < 10_000]
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        known = {tensor.untyped_storage()._cdata for tensor in tensors_of((args, kwargs))}
        # None for what is a view, or was done in place.
        made = [None if tensor.untyped_storage()._cdata in known else tensor for tensor in tensors_of(out)]
        if func._schema.is_mutable or any(tensor is not None for tensor in made):  # of a view, nothing is to be done
            self.done.append((func, args, kwargs, made))
        return out

    def replay(self) -> None:
        """Repeat all of it; results go where they were."""
        for func, args, kwargs, made in self.done:
            for old, new in zip(made, tensors_of(func(*args, **kwargs)), strict=True):
                if old is not None:
                    old.copy_(new)


def tensors_of(values: Any) -> list[torch.Tensor]:
    leaves = [values] if isinstance(values, torch.Tensor) else tree_leaves(values)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


@dataclass
class EmulatedCuda:
    """`torch.cuda` with graphs, on a CPU that stands for one of its devices.

    Attributes:
        home: index of that device.
        counts: `capture` and `replay`.
        current: index of the current device.
        failures: captures that are still to fail for want of memory.
    """

    home: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    current: int = 0
    failures: int = 0

    @contextmanager
    def device(self, _: torch.device) -> Iterator[None]:
        before, self.current = self.current, self.home
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(
        self, graph: EmulatedGraph, *, pool: object, stream: EmulatedStream, capture_error_mode: str
    ) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        assert pool is not None
        self.counts["capture"] += 1
        if self.failures:
            self.failures -= 1
            raise torch.AcceleratorError("CUDA error: out of memory")
        with Recording() as recording:
            yield
        recording.undo()
        # pytorch #87894: on another device than the current one, the graph comes out empty.
        graph.recording = recording if stream.device == self.current else Recording()


@dataclass
class EmulatedGraph:
    """`torch.cuda.CUDAGraph`."""

    cuda: EmulatedCuda
    recording: Recording | None = None

    @torch.inference_mode()
    def replay(self) -> None:
        assert self.recording is not None
        self.cuda.counts["replay"] += 1
        self.recording.replay()


@dataclass
class EmulatedEvent:
    """`torch.cuda.Event`.

    Attributes:
        waits: how often the host waited for it.
    """

    waits: int = 0

    def synchronize(self) -> None:
        self.waits += 1


@dataclass
class EmulatedStream:
    """`torch.cuda.Stream`, which waits for nothing."""

    device: int

    def wait_stream(self, stream: EmulatedStream) -> None:
        assert stream.device == self.device

    def record_event(self) -> EmulatedEvent:
        return EmulatedEvent()


def emulate_cuda(monkeypatch: pytest.MonkeyPatch, home: int = 0) -> EmulatedCuda:
    """Put the emulation in place of `torch.cuda`'s graphs, streams and current device."""
    cuda = EmulatedCuda(home)

    @contextmanager
    def stream(_: EmulatedStream) -> Iterator[None]:
        yield

    for name, double in {
        "device": cuda.device,
        "graph": cuda.graph,
        "graph_pool_handle": object,
        "CUDAGraph": lambda: EmulatedGraph(cuda),
        "Stream": lambda _: EmulatedStream(home),
        "current_stream": lambda _: EmulatedStream(home),
        "stream": stream,
    }.items():
        monkeypatch.setattr(torch.cuda, name, double)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    return cuda
