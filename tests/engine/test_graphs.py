"""Texts by every attention of a GPU and by captured graphs, which here are doubles: `support.cuda_doubles`."""

from __future__ import annotations

import logging

import pytest
import torch
from support.cuda_doubles import EmulatedCuda, HostReadError, emulate_cuda, kvcache_double, varlen_double
from support.full_forward import read_pixels
from support.golden import golden_answers, golden_images

from artimuse_actor import ArtiMuse
from artimuse_actor.engine import graphs
from artimuse_actor.engine.answer import Reply
from artimuse_actor.engine.attention import FlashAttnPages, GatheredPages, Pages, VarlenPages
from artimuse_actor.engine.decode_steps import DecodeSteps
from artimuse_actor.engine.graphs import StepGraphs
from artimuse_actor.engine.text_engine import TextEngine

PAGES: dict[str, Pages] = {
    "varlen": VarlenPages.of(varlen_double),
    "flash-attn": FlashAttnPages.of(kvcache_double),
    "gathered": GatheredPages,
}
PICTURES = 2
TOKENS = 48


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> EmulatedCuda:
    return emulate_cuda(monkeypatch)


def captured_engine(model: ArtiMuse, sequences: int, *, late: bool = True) -> TextEngine:
    """An engine with a fixed cache whose steps are captured."""
    engine = model.describer(sequences=sequences, max_new_tokens=TOKENS).engine
    engine._schedule.cache = cache = model.model.new_cache(400)
    engine._steps = DecodeSteps(model.model, cache)
    engine._steps.graphs = StepGraphs(model.model, cache, engine._steps._last_ids)
    engine._reads_late = late
    return engine


def golden_texts(model: ArtiMuse, engine: TextEngine, count: int = PICTURES) -> list[list[str]]:
    """The published code's texts and this engine's must be the same; returns them."""
    from artimuse_actor.engine.describe import to_text

    for key, path in enumerate(golden_images()[:count]):
        engine.add(key, read_pixels(path))
    found = {}
    while engine.busy:
        for image in engine.step():
            found[image.key] = [to_text(model._tokenizer, text.token_ids) for text in image.texts]
    wanted = [list(answer["texts"].values()) for answer in golden_answers("artimuse")[:count]]
    texts = [found[key] for key in range(count)]
    assert texts == wanted
    return texts


def graphs_of(engine: TextEngine) -> StepGraphs:
    assert engine._steps.graphs is not None
    return engine._steps.graphs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pages", "late"),
    [*((pages, True) for pages in PAGES.values()), (GatheredPages, False)],
    ids=[*PAGES, "gathered, read at once"],
)
def test_every_attention_gives_the_published_texts_kernel_by_kernel_and_in_graphs(
    models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch, cuda: EmulatedCuda, pages: Pages, late: bool
) -> None:
    model = models["artimuse"]
    monkeypatch.setattr(model.model, "pages", pages)
    plain = model.describer(sequences=16, max_new_tokens=TOKENS).engine
    plain._reads_late = late
    golden_texts(model, plain)
    assert not cuda.counts
    engine = captured_engine(model, 24, late=late)
    golden_texts(model, engine)
    # From few texts to many and down again: padded to some sizes, each captured once and replayed with other inputs.
    assert 4 <= cuda.counts["capture"] == len(graphs_of(engine)._captured) <= 10
    assert cuda.counts["replay"] > 5 * cuda.counts["capture"]


def test_letters_have_the_same_probabilities_in_graphs_whose_results_are_read_a_step_later(
    models: dict[str, ArtiMuse], cuda: EmulatedCuda
) -> None:
    model = models["unipercept"]

    def replies(*, captured: bool) -> dict[int, list[Reply]]:
        answerer = model.answerer(max_new_tokens=6, sequences=4)
        engine, found = answerer.engine, dict[int, list[Reply]]()
        if captured:
            engine._schedule.cache = cache = model.model.new_cache(400)
            engine._steps = steps = DecodeSteps(model.model, cache, 4, engine._watched_ids)
            steps.graphs = StepGraphs(model.model, cache, steps._last_ids, steps._watched)
            engine._reads_late = True
        for key, path in enumerate(golden_images()[:2]):
            answerer.add(key, read_pixels(path), ["one?", "a longer one, and another?", "?"])
        while engine.busy:
            found |= dict(answerer.step())
        return found

    plain, in_graphs = replies(captured=False), replies(captured=True)
    assert cuda.counts["replay"] > cuda.counts["capture"] > 0
    for key, wanted in plain.items():
        for reply, other in zip(wanted, in_graphs[key], strict=True):
            assert reply.text == other.text
            assert dict(reply.probabilities) == pytest.approx(dict(other.probabilities), rel=1e-3)


def test_a_graph_is_captured_and_replayed_on_the_models_device_and_not_on_the_current_one(
    models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch
) -> None:
    # On another device the graph came out empty, and its tokens stayed those of the capture (pytorch #87894).
    cuda = emulate_cuda(monkeypatch, home=1)
    golden_texts(models["artimuse"], captured_engine(models["artimuse"], 8), 1)
    assert cuda.counts["replay"]
    assert cuda.current == 0


def test_a_step_whose_capture_fails_runs_kernel_by_kernel(
    models: dict[str, ArtiMuse], cuda: EmulatedCuda, caplog: pytest.LogCaptureFixture
) -> None:
    cuda.failures = 2
    engine = captured_engine(models["artimuse"], 8)
    golden_texts(models["artimuse"], engine, 1)
    assert [step is None for step in graphs_of(engine)._captured.values()].count(True) == 2
    assert cuda.counts["replay"]
    assert "without a CUDA graph: CUDA error: out of memory" in caplog.text
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 2


def test_the_number_of_graphs_is_limited(
    models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch, cuda: EmulatedCuda
) -> None:
    monkeypatch.setattr(graphs, "MAX_GRAPHS", 2)
    engine = captured_engine(models["artimuse"], 8)
    golden_texts(models["artimuse"], engine, 1)
    assert len(graphs_of(engine)._captured) == cuda.counts["capture"] == 2


@pytest.mark.slow
def test_a_smaller_cache_is_captured_anew(models: dict[str, ArtiMuse], cuda: EmulatedCuda) -> None:
    # A fixed cache moves only when a prefill did not fit beside it.
    model = models["artimuse"]
    engine = captured_engine(model, 8)
    engine.add("first", read_pixels(golden_images()[5]))
    for _ in range(20):
        engine.step()
    engine._restart(300)
    engine._steps.graphs = StepGraphs(model.model, engine._schedule.cache, engine._steps._last_ids)
    answered = []
    while engine.busy:
        answered += engine.step()
    alone = model.describer(sequences=8, max_new_tokens=TOKENS).engine
    alone.add("first", read_pixels(golden_images()[5]))
    wanted = []
    while alone.busy:
        wanted += alone.step()
    assert answered[0].texts == wanted[0].texts
    assert answered[0].probabilities is not None


def test_the_emulation_keeps_what_is_no_input_and_refuses_a_host_that_reads(cuda: EmulatedCuda) -> None:
    # Else the tests above would prove little.
    inputs, factor = torch.tensor([1.0, 2.0]), [2.0]

    def capture(step: object) -> tuple[object, list[torch.Tensor]]:
        made: list[torch.Tensor] = []
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(torch.device("cpu"))
        pool = torch.cuda.graph_pool_handle()
        with (
            torch.inference_mode(),
            torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
        ):
            made.append(step())  # type: ignore[operator]
        return graph, made

    graph, (doubled,) = capture(lambda: inputs * factor[0])
    inputs.copy_(torch.tensor([5.0, 7.0]))
    factor[0] = 3.0
    graph.replay()  # type: ignore[attr-defined]
    assert doubled.tolist() == [10.0, 14.0]
    with pytest.raises(HostReadError):
        capture(lambda: inputs.sum().item())
