"""Batches that are copied on a stream of their own, on fake CUDA tensors.

Every pass in `bench.engine.fake_cuda` is checked for what no event orders; here that check itself is tried out too.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from artimuse_actor.engine import score_engine
from artimuse_actor.engine.copy_stream import CopyStream
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.engine.pixel_values import PixelValues
from artimuse_actor.engine.read_prompts import read_prompts
from artimuse_actor.engine.score_engine import ScoreEngine
from artimuse_actor.protocol.prompts import SplitPrompts
from bench.engine.fake_cuda import CUDA, fake_cuda, fake_model
from bench.engine.fake_kernels import FAKE_PAGES
from bench.engine.fake_passes import admission, score_batch
from bench.engine.fake_streams import FakeEvent, FakeStream
from bench.engine.predicted import H200, predicted_s
from bench.engine.random_network import FULL, with_layers

BATCH = 4
PIXELS = BATCH * 448 * 448 * 3
SHALLOW = replace(with_layers(FULL, 2), vision=replace(FULL.vision, num_layers=1))


@pytest.fixture
def passes() -> Iterator[FakeStream]:
    """The stream of the passes of a fake device."""
    with fake_cuda() as streams:
        yield streams.passes


@pytest.fixture
def model(passes: FakeStream) -> VisionLanguageModel:
    return fake_model(SHALLOW, FAKE_PAGES["torch's kernel"])


@dataclass
class Copy:
    """A batch on its way.

    Attributes:
        stream: where.
        behind: kernels of the passes that it waits for.
        launched: kernels of the passes that were launched before.
        reads: results that the host had read before.
        pinned: the pinned memory it comes from, if the host does not wait for it; else None.
    """

    stream: FakeStream
    behind: int
    launched: int
    reads: int
    pinned: torch.Tensor | None


@dataclass
class Copies(TorchDispatchMode):
    """Batches of pixels that are copied to the device."""

    passes: FakeStream
    found: list[Copy] = field(default_factory=list)
    pinned: list[torch.Tensor] = field(default_factory=list)
    reads: int = 0

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        self.pinned.append(tensor.clone())
        return self.pinned[-1]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and out.is_cuda and out.dtype == torch.uint8:
            stream: Any = torch.cuda.current_stream(CUDA)
            self.found.append(
                Copy(
                    stream=stream,
                    behind=stream.done[self.passes],
                    launched=self.passes.done[self.passes],
                    reads=self.reads,
                    pinned=next((part for part in self.pinned if part is args[0] and kwargs["non_blocking"]), None),
                )
            )
        return out


def score(model: VisionLanguageModel, batches: int, monkeypatch: pytest.MonkeyPatch, passes: FakeStream) -> list[Copy]:
    """Score so many batches as a job does; numbers that do not exist are not made to scores."""
    copies = Copies(passes)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: copies.pin(tensor))
    monkeypatch.setattr(score_engine, "scores_of", lambda probabilities: probabilities)
    # Without CUDA in the build, its fake tensors know no inference mode.
    monkeypatch.setattr(score_engine, "read_prompts", torch.inference_mode(False)(read_prompts))
    monkeypatch.setattr(ScoreEngine, "_probabilities", torch.no_grad()(inspect.unwrap(ScoreEngine._probabilities)))

    def synchronize(_: FakeEvent) -> None:
        copies.reads += 1

    monkeypatch.setattr(FakeEvent, "synchronize", synchronize)
    level_ids = torch.zeros(101, dtype=torch.int64, device=CUDA)
    engine = ScoreEngine(model, SplitPrompts((1, 2), (), ((3,),)), level_ids=level_ids, batch_size=BATCH)
    with copies:
        found: Any = engine.score(np.zeros((batches * BATCH, 448, 448, 3), np.uint8))
    assert found.shape == (batches * BATCH, 1, 101)
    assert copies.reads == batches
    return copies.found


@pytest.mark.slow
def test_a_batch_is_copied_while_the_one_before_is_computed(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, passes: FakeStream
) -> None:
    first, second, third = score(model, 3, monkeypatch, passes)
    for copy in (first, second, third):
        assert copy.stream is not passes
        assert copy.behind == 0  # however many kernels are launched
    # None is written again while a copy may still read it: torch keeps each until its stream has done so.
    assert len({id(copy.pinned) for copy in (first, second, third)} - {id(None)}) == 3
    assert 0 < first.launched < second.launched < third.launched
    # It is on its way before the host waits for the batch before: the third while only the first is read.
    assert [copy.reads for copy in (first, second, third)] == [0, 0, 1]


def test_the_passes_wait_for_their_batch_and_for_no_other_copy(passes: FakeStream) -> None:
    copies = CopyStream(CUDA)
    first = copies.copy(torch.zeros(4))
    (stream,) = set(passes.done) - {passes}
    assert passes.done[stream] == stream.done[stream] == 1
    torch.add(first, 1)
    before = passes.done[passes]
    copies.copy(torch.zeros(4))
    assert passes.done[stream] == 2
    assert stream.done[passes] < before  # the stream of copies waits for nothing


def test_a_batch_that_is_not_waited_for_is_found(passes: FakeStream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeStream, "wait_stream", lambda *_: None)
    with pytest.raises(AssertionError, match="the stream of the passes reads what stream 1 may still write"):
        PixelValues(CUDA, torch.bfloat16).of(torch.zeros(1, 448, 448, 3, dtype=torch.uint8))


def test_memory_that_the_next_copy_would_overwrite_is_found(
    passes: FakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    with pytest.raises(AssertionError, match="stream 1 may overwrite memory that the stream of the passes still reads"):
        PixelValues(CUDA, torch.bfloat16).of(torch.zeros(1, 448, 448, 3, dtype=torch.uint8))


def test_what_another_stream_may_still_read_is_not_overwritten(passes: FakeStream) -> None:
    # Else the two tests above would prove less.
    tensor = torch.zeros(4, device=CUDA)
    other = torch.cuda.Stream(CUDA)
    other.wait_stream(torch.cuda.current_stream(CUDA))
    with torch.cuda.stream(other):
        torch.add(tensor, 1)
    with pytest.raises(AssertionError, match="stream of the passes overwrites what stream 1 may still read"):
        tensor.add_(1)
    torch.cuda.current_stream(CUDA).wait_event(other.record_event())
    tensor.add_(1)


@pytest.mark.slow
def test_no_pass_waits_in_line_for_pixels(model: VisionLanguageModel) -> None:
    scores, admitted = score_batch(model, BATCH), admission(model, BATCH)
    assert scores.ahead_bytes == admitted.ahead_bytes == PIXELS
    assert scores.copied_bytes == 0
    assert admitted.copied_bytes < 1000  # where its pages are
    in_line = replace(scores, copied_bytes=PIXELS, ahead_bytes=0)
    assert predicted_s(in_line, H200, captured=True) - predicted_s(scores, H200, captured=True) == pytest.approx(
        PIXELS / H200.link_bytes_per_s
    )


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_a_device_without_streams_gets_a_plain_copy(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda _: pytest.fail("pinned"))
    to: list[Any] = []
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *arguments: to.append(arguments) or tensor)  # type: ignore[func-returns-value]
    pixels = torch.zeros(2, dtype=torch.uint8)
    assert CopyStream(torch.device(device)).copy(pixels) is pixels
    assert to == [(torch.device(device),)]
