"""The text engine against the published code's method on a GPU: the texts part of `bench/engine/gpu.py`.

Parity comes first, in float32 on few layers: texts that end by themselves, with an engine that goes from few sequences
in flight to many, so that places are refilled, the cache grows under captured CUDA graphs, and steps of many sizes are
captured. Then, in bfloat16, how many texts depend on the batch, and the speed of both with texts of fixed length.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median
from typing import Any, Final
from unittest.mock import patch

import torch

from artimuse_actor.engine.decode_steps import DecodeSteps, pack
from artimuse_actor.engine.kv_cache import PagedKVCache
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.errors import RunError
from bench.engine.gpu_table import Row, busiest
from bench.engine.operations import PromptLengths, shared_text_operations
from bench.engine.published import PublishedLoop, PublishedTexts
from bench.engine.random_network import TEXT_TAIL_TOKENS, RandomModel, random_pictures
from bench.engine.text_parity import NEVER, TIE, difference, largest_gap
from bench.engine.two_sides import answer_all, text_engine, texts_of
from bench.measure.timing import alternate, peak_memory, release

QUESTIONS: Final = len(TEXT_TAIL_TOKENS)


@dataclass(frozen=True)
class TextPlan:
    """Sizes of the measurement.

    Attributes:
        sequences: of a decode step.
        tokens: of a text, where a decode step is halfway through.
        rows: tokens of every text, and sequences in flight, for each row of the table.
        images: of one contestant in one round, at least; enough to fill all places twice.
        rounds: of all contestants.
        parity_images: compared in float32.
        parity_tokens: of a text at most, there.
        parity_sequences: in flight, before and after.
        noise_images: compared in bfloat16.
        noise_tokens: of a text, there.
    """

    sequences: tuple[int, ...]
    tokens: int
    rows: tuple[tuple[int, int], ...]
    images: int
    rounds: int
    parity_images: int
    parity_tokens: int
    parity_sequences: tuple[int, int]
    noise_images: int
    noise_tokens: int


FULL_TEXTS: Final = TextPlan(
    (64, 256, 512), 100, ((100, 512), (100, 256), (150, 512), (100, 64)), 64, 2, 8, 96, (8, 48), 2, 64
)
SMALL_TEXTS: Final = TextPlan((8, 16), 12, ((12, 16), (20, 8)), 2, 2, 3, 48, (4, 16), 1, 48)


def check_texts(plan: TextPlan, model: RandomModel) -> bool:
    """Compare the engine's texts with the published method's, ties aside, and print the comparison; True if equal."""
    pixels = random_pictures(plan.parity_images)
    few, many = plan.parity_sequences
    engine = text_engine(model, model.stop_id, plan.parity_tokens, many)
    engine.sequences = few
    with counted_steps() as counts:
        answer_all(engine, pixels[:1])
        engine.sequences = many
        ours = texts_of(answer_all(engine, pixels))
    slow = PublishedTexts(
        model.reference, model.text_questions, stop_id=model.stop_id, max_new_tokens=plan.parity_tokens
    )
    texts = [slow.answer(image) for image in pixels]
    gap = largest_gap(slow, pixels, texts, ours)
    lengths = sorted(len(text) for image in texts for text in image)
    print(
        f"texts, {precision(model)}, {len(pixels)} images: {difference(texts, ours)}"
        f"{f', at ties (logits {gap:.1e} apart)' if 0 < gap <= TIE else ''}; "
        f"{lengths[0]} to {lengths[-1]} tokens, median {median(lengths):.0f}\n"
        f"  {counts['step']} decode steps of {counts['sizes']} sizes, {counts['replay']} of them replayed as CUDA "
        f"graphs, {counts['capture']} captures; the cache grew {counts['grow']} times",
        flush=True,
    )
    if not gap <= TIE:
        print(f"FAILED: the engine's texts are not the published ones; logits {gap:.2g} apart.", file=sys.stderr)
    return gap <= TIE


def report_noise(plan: TextPlan, model: RandomModel) -> None:
    """Print how many texts in this precision differ from the published method's, and from those decoded alone."""
    pixels = random_pictures(plan.noise_images)
    slow = PublishedTexts(model.reference, model.text_questions, stop_id=NEVER, max_new_tokens=plan.noise_tokens)
    many = max(plan.sequences)
    alone, together = (
        texts_of(answer_all(text_engine(model, NEVER, plan.noise_tokens, count), pixels)) for count in (1, many)
    )
    published = [slow.answer(image) for image in pixels]
    print(f"texts of {plan.noise_tokens} tokens, {precision(model)}, {many} sequences in flight")
    print(f"  beside one in flight: {difference(alone, together)}")
    print(f"  beside the published manner: {difference(published, together)}", flush=True)


def measure_row(plan: TextPlan, model: RandomModel, peak: float, tokens: int, sequences: int, stop_id: int) -> Row:
    """One row; as published, one score and one text are timed, and eight times that text taken."""
    device = model.level_ids.device
    release(device)
    pixels = random_pictures(max(plan.images, 2 * sequences // QUESTIONS))
    name = f"texts of {tokens if stop_id == NEVER else f'≤ {tokens}'}, {sequences} in flight"
    texts: list[int] = []

    def answer() -> None:
        texts[:] = [len(text) for image in texts_of(answer_all(engine, pixels)) for text in image]

    try:
        engine = text_engine(model, stop_id, tokens, sequences)
        memory = peak_memory(answer, device)  # the warm-up
        contestants: dict[str, Callable[[], object]] = {"engine": answer, **published_work(model, pixels, tokens)}
        seconds = {what: median(times) for what, times in alternate(contestants, plan.rounds, device).items()}
    except (RunError, torch.OutOfMemoryError):
        return Row(name)
    published = seconds["score"] + QUESTIONS * seconds["text"] if "score" in seconds else 0.0
    bound = peak / shared_text_operations(model.config, PromptLengths.of(model.text_prompts), round(fmean(texts)))
    if engine.sequences < sequences:
        name += f" ({engine.sequences} at the end: the memory ran out)"
    return Row(
        name,
        images_per_s=len(pixels) / seconds["engine"],
        tokens_per_s=sum(texts) / seconds["engine"],
        published_per_s=1 / published if published else 0.0,
        bound_per_s=bound,
        memory=memory,
    )


def published_work(model: RandomModel, pixels: torch.Tensor, tokens: int) -> dict[str, Callable[[], object]]:
    """A score and a text in the published manner, warmed up; neither if one fails, which loses no row."""
    try:
        loop = PublishedLoop(model.reference, model.prompts, model.level_ids)
        slow = PublishedTexts(model.reference, model.text_questions, stop_id=NEVER, max_new_tokens=tokens)
        loop.score(pixels[:1])
    except Exception as error:
        print(f"published manner: {type(error).__name__}: {error}", file=sys.stderr)
        return {}
    return {"score": partial(loop.score, pixels[:1]), "text": partial(slow.answer_one, pixels[0], 0)}


def measure_step(plan: TextPlan, model: RandomModel, sequences: int) -> float:
    """Seconds of a decode step of so many rows, as it runs; prints it, kernel by kernel too, and the busiest kernels.

    Raises:
        torch.OutOfMemoryError: it does not fit.
    """
    device = model.level_ids.device
    position = PromptLengths.of(model.text_prompts).text_shared + plan.tokens // 2
    as_it_runs, plain = step_of(model, sequences, position)
    contestants = {"as it runs": as_it_runs}
    if device.type == "cuda":
        contestants["kernel by kernel"] = plain
    for work in contestants.values():
        work()
    seconds = alternate(contestants, 10, device)
    times = ", ".join(f"{what} {1e3 * median(found):.1f} ms" for what, found in seconds.items())
    print(f"one decode step at token {position}, {sequences} in flight: {times}", flush=True)
    for part in busiest(plain, device) if sequences == max(plan.sequences) else ():
        print(f"    {part}", flush=True)
    return median(seconds["as it runs"])


def step_of(model: RandomModel, sequences: int, position: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """One step of sequences that share pages as eight questions about an image do: as the engine does it, and plain."""
    language = VisionLanguageModel(model.network)
    size = language.pages.page_tokens
    whole = PromptLengths.of(model.text_prompts).text_shared // size
    own = position // size + 1 - whole
    images = -(-sequences // QUESTIONS)
    cache = language.new_cache(1 + images * whole + sequences * own)
    pages: list[list[int]] = []
    for number in range(sequences):
        shared = cache.allocate(whole) if number % QUESTIONS == 0 else pages[-1][:whole]
        pages.append([*shared, *cache.allocate(own)])
    tokens, positions = [1] * sequences, [position] * sequences
    packed = pack(tokens, positions, pages).to(language.device)

    @torch.inference_mode()
    def plain() -> None:
        language.read_step(packed, cache).tolist()

    steps = DecodeSteps(language, cache)
    return lambda: steps.launch(tokens, positions, pages).read(), plain


@contextmanager
def counted_steps() -> Iterator[Counter[str]]:
    """Count what decode steps do: `step`, `replay`, `capture`, `grow`, and `sizes`, the numbers of rows that occur."""
    counts: Counter[str] = Counter()
    sizes: set[int] = set()

    def counting(owner: Any, name: str, what: str) -> Any:
        original = getattr(owner, name)

        def counted(self: Any, *arguments: Any, **named: Any) -> Any:
            counts[what] += 1
            if what == "step":
                sizes.add(len(arguments[0]))
            return original(self, *arguments, **named)

        return patch.object(owner, name, counted)

    with ExitStack() as stack:
        stack.enter_context(counting(DecodeSteps, "launch", "step"))
        stack.enter_context(counting(PagedKVCache, "grow", "grow"))
        stack.enter_context(counting(torch.cuda.CUDAGraph, "replay", "replay"))
        stack.enter_context(counting(torch.cuda.CUDAGraph, "capture_begin", "capture"))
        yield counts
    counts["sizes"] = len(sizes)


def precision(model: RandomModel) -> str:
    """The dtype and number of layers of a network."""
    return f"{str(model.dtype).removeprefix('torch.')}, {model.config.language.num_layers} layers"
