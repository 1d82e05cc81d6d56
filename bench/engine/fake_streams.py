"""CUDA's streams for fake tensors: nothing runs, and what no event orders is an error.

A stream runs its kernels in their order, and knows of another stream's only what an event has told it. So each has a
count, for every stream, of the kernels that are surely done before its next one (a vector clock, as in torch's own
`torch.cuda._sanitizer`, which needs a device). A kernel may read what was surely written, and overwrite what was surely
read; and memory that goes back to the stream it was allocated for, which takes it for its next tensor, must not be
in use on another one, unless `record_stream` has named that.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(eq=False)
class FakeEvent:
    """`torch.cuda.Event`.

    Attributes:
        done: kernels of each stream that are done when it is.
    """

    done: Counter[FakeStream]

    def synchronize(self) -> None:
        """Nothing runs."""


@dataclass(eq=False)
class FakeStream:
    """`torch.cuda.Stream`.

    Attributes:
        name: for messages.
        done: kernels of each stream that are surely done before its next one; of itself, all it was given.
    """

    name: str
    done: Counter[FakeStream] = field(default_factory=Counter)

    def record_event(self) -> FakeEvent:
        """An event behind all that was launched here."""
        return FakeEvent(Counter(self.done))

    def wait_event(self, event: FakeEvent) -> None:
        """What is launched from now on runs after it."""
        self.done |= event.done

    def wait_stream(self, stream: FakeStream) -> None:
        """What is launched from now on runs after all that was launched there."""
        self.wait_event(stream.record_event())


@dataclass
class _Memory:
    """A tensor's.

    Attributes:
        home: the stream it is allocated for, and goes back to.
        written: stream and number of the kernel that wrote it last; None before the first.
        touched: number of the last kernel of each stream that reads or writes it.
        recorded: streams that `record_stream` has named.
    """

    home: FakeStream
    written: tuple[FakeStream, int] | None = None
    touched: Counter[FakeStream] = field(default_factory=Counter)
    recorded: set[FakeStream] = field(default_factory=set)


class FakeStreams(TorchDispatchMode):
    """All streams of a device, in place of torch's.

    Attributes:
        passes: the one that is current at first.
        current: where kernels are launched now.
    """

    def __init__(self) -> None:
        """Open the first one."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.passes = self.current = FakeStream("the stream of the passes")
        self._opened = 0
        self._memory: dict[int, _Memory] = {}
        self._freed_in_use: list[str] = []

    @contextmanager
    def in_place(self) -> Iterator[FakeStreams]:
        """Put them in place of torch's."""
        with ExitStack() as stack:
            for owner, name, double in (
                (torch.cuda, "Stream", self._open),
                (torch.cuda, "stream", self._on),
                (torch.cuda, "current_stream", lambda _: self.current),
                (torch.Tensor, "record_stream", lambda tensor, stream: self._record(tensor, stream)),
            ):
                stack.enter_context(patch.object(owner, name, double))
            yield stack.enter_context(self)

    def _open(self, _: torch.device) -> FakeStream:
        self._opened += 1
        return FakeStream(f"stream {self._opened}")

    @contextmanager
    def _on(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def _record(self, tensor: torch.Tensor, stream: FakeStream) -> None:
        self._memory[tensor.untyped_storage()._cdata].recorded.add(stream)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs, outputs = _storages((args, kwargs)), _storages(out)
        for key in outputs.keys() - inputs.keys():
            self._memory[key] = _Memory(home=self.current)
            weakref.finalize(outputs[key], self._free, key)
        if func.is_view or not (inputs or outputs):
            return out
        stream, what = self.current, f"{func._schema.name} on {self.current.name}"
        stream.done[stream] += 1
        for key in inputs.keys() | outputs.keys():
            memory = self._memory.setdefault(key, _Memory(home=self.passes))
            if memory.written is not None:
                writer, number = memory.written
                assert stream.done[writer] >= number, f"{what} reads what {writer.name} may still write"
            if key in outputs:
                for other, number in memory.touched.items():
                    assert stream.done[other] >= number, f"{what} overwrites what {other.name} may still read"
                memory.written = stream, stream.done[stream]
            memory.touched[stream] = stream.done[stream]
        assert not self._freed_in_use, self._freed_in_use.pop()
        return out

    def _free(self, key: int) -> None:
        memory = self._memory.pop(key)
        for stream, number in memory.touched.items():
            if stream not in memory.recorded and memory.home.done[stream] < number:
                # Said at the next kernel: what is raised here goes nowhere.
                self._freed_in_use.append(f"{memory.home.name} may overwrite memory that {stream.name} still reads")


def _storages(values: Any) -> dict[int, torch.UntypedStorage]:
    """Memory of the device among some values."""
    tensors = (leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor) and leaf.is_cuda)
    return {storage._cdata: storage for storage in (tensor.untyped_storage() for tensor in tensors)}
