"""The text engine against the published manner on the CPU: a score and eight texts an image, same weights, in turn.

    python bench/engine/texts.py [--threads 1] [--sequences 16] [--tokens 48] [--images 4]

In a round the published manner answers one image and the engine all of them; every text has the same length, so one
image is as good as another. Then the engine with texts that end by themselves, at very different lengths. Fails if a
text differs in float32 by more than a tie (see `bench.engine.text_parity`), or a score by more than 1e-4 points.

Last, reported and not judged: how many texts in bfloat16 depend on how many sequences are in flight. That belongs to
the network: one of random weights is seldom sure of its next token, and the tests' tiny checkpoint says little.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started

from artimuse_actor import ArtiMuse
from artimuse_actor.engine.schedule import AnsweredImage
from artimuse_actor.images.decode import decode_image
from artimuse_actor.images.options import DecodeOptions
from artimuse_actor.protocol.protocols import ARTIMUSE
from artimuse_actor.verify.golden import golden_checkpoint
from bench.engine.operations import PromptLengths, engine_text_operations, published_text_operations
from bench.engine.published import PublishedLoop, PublishedTexts, differences
from bench.engine.random_network import MEDIUM, RandomModel, random_model, random_pictures
from bench.engine.text_parity import NEVER, TIE, Texts, difference, largest_gap
from bench.engine.two_sides import answer_all, scores_of, text_engine, texts_of
from bench.measure.machine import ROOT, machine_line
from bench.measure.timing import alternate

TOLERANCE: Final = 1e-4  # points
GOAL: Final = 4
CPU: Final = torch.device("cpu")
GOLDEN: Final = ROOT / "tests" / "golden" / "artimuse"
MIXED_TOKENS: Final = 100  # at most
MIXED_IMAGES: Final = 4
PUBLISHED: Final = "published manner"


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 if texts or scores differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--images", type=int, default=4, help="of the engine, and rounds (default 4)")
    parser.add_argument("--tokens", type=int, default=48, help="of every text (default 48)")
    parser.add_argument("--sequences", type=int, nargs="+", default=[16], help="in flight (default 16, the product's)")
    parser.add_argument("--brief", action="store_true", help="neither mixed lengths nor bfloat16")
    options = parser.parse_args(arguments)

    torch.set_num_threads(options.threads)
    print(f"{machine_line('torch', 'transformers')}; {options.threads} thread(s), float32", flush=True)
    model = random_model(MEDIUM, device=CPU, dtype=torch.float32)
    agreed = measure(model, random_pictures(options.images), options.tokens, options.sequences)
    if not options.brief:
        agreed = measure_mixed(model, options.sequences[0]) and agreed
        del model
        report_bfloat16(random_pictures(options.images), options.tokens, options.sequences[0])
    return 0 if agreed else 1


def measure(model: RandomModel, pixels: torch.Tensor, tokens: int, in_flight: Sequence[int]) -> bool:
    """Time both ways to texts of one length, print the table, and say whether they agree."""
    loop = PublishedLoop(model.reference, model.prompts, model.level_ids)
    slow = PublishedTexts(model.reference, model.text_questions, stop_id=NEVER, max_new_tokens=tokens)
    scores: list[float] = []
    texts: list[list[tuple[int, ...]]] = []
    answers: dict[str, list[AnsweredImage]] = {}

    def publish() -> None:
        image = pixels[len(texts)]
        scores.extend(loop.score(image.unsqueeze(0)))
        texts.append(slow.answer(image))

    def answer(name: str, sequences: int) -> None:
        answers[name] = answer_all(text_engine(model, NEVER, tokens, sequences), pixels)

    slow.answer(pixels[0], questions=1)  # warm-up
    answer("warm-up", in_flight[0])
    names = {f"engine, {count} in flight": count for count in in_flight}
    engines = {name: partial(answer, name, count) for name, count in names.items()}
    seconds = alternate({PUBLISHED: publish, **engines}, len(pixels), CPU)

    lengths = PromptLengths.of(model.text_prompts)
    # The last token of a text that is cut is not read.
    counted_slow = published_text_operations(MEDIUM, lengths, tokens - 1)
    counted_fast = engine_text_operations(MEDIUM, lengths, tokens - 1)
    print(f"an image: its score, and {len(lengths.texts)} texts of {tokens} tokens")
    print(f"{len(pixels)} rounds in turn: one image in the published manner, {len(pixels)} by the engine\n")
    print("|                      | s/image (median) | tokens/s | GFLOP/image | GFLOP/s | ratio (rounds)         |")
    print("| -------------------- | ---------------: | -------: | ----------: | ------: | ---------------------- |")
    for name, times in seconds.items():
        counted = counted_slow if name == PUBLISHED else counted_fast
        per_image = [time / (1 if name == PUBLISHED else len(pixels)) for time in times]
        ratios = [one / other for one, other in zip(seconds[PUBLISHED], per_image, strict=True)]
        ratio = f"{median(seconds[PUBLISHED]) / median(per_image):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(
            f"| {name:20} | {median(per_image):16.3f} | {len(lengths.texts) * tokens / median(per_image):8.1f} "
            f"| {counted / 1e9:11.1f} | {counted / median(per_image) / 1e9:7.1f} | {ratio:22} |"
        )
    print(f"\ngoal: {GOAL} times; by counted operations {counted_slow / counted_fast:.2f} times")
    agreed = True
    for name in names:
        apart = max(differences(scores, scores_of(answers[name])))
        print(f"{name}: scores differ by {apart:.1e} points at most (allowed {TOLERANCE:.0e}); ", end="")
        agreed = agree(slow, pixels, texts, texts_of(answers[name])) and agreed
        if not apart <= TOLERANCE:
            print("FAILED: the engine's scores are not the published loop's.", file=sys.stderr)
            agreed = False
    return agreed


def measure_mixed(model: RandomModel, sequences: int) -> bool:
    """Time and compare texts that end by themselves: places are refilled one by one, and the last ones stay empty."""
    pixels = random_pictures(MIXED_IMAGES)
    slow = PublishedTexts(model.reference, model.text_questions, stop_id=model.stop_id, max_new_tokens=MIXED_TOKENS)
    engine = text_engine(model, model.stop_id, MIXED_TOKENS, sequences)
    start = perf_counter()
    ours = texts_of(answer_all(engine, pixels))
    seconds = perf_counter() - start
    texts = [slow.answer(pixels[0])]
    lengths = sorted(len(text) for image in ours for text in image)
    print(f"\ntexts that end by themselves, {len(pixels)} images: {lengths[0]} to {lengths[-1]} tokens, ", end="")
    print(
        f"median {median(lengths):.0f}: {sum(lengths) / seconds:.1f} tokens/s; of the first image ", end="", flush=True
    )
    return agree(slow, pixels[:1], texts, ours[:1])


def agree(slow: PublishedTexts, pixels: torch.Tensor, texts: Texts, ours: Texts) -> bool:
    """Compare the engine's texts with the published method's in one printed line; True if equal."""
    gap = largest_gap(slow, pixels, texts, ours)
    print(
        difference(texts, ours) + (f", at ties: logits {gap:.1e} apart at most" if 0 < gap <= TIE else ""), flush=True
    )
    if gap > TIE:
        print(f"FAILED: the engine's texts are not the published ones; logits {gap:.1e} apart.", file=sys.stderr)
    return gap <= TIE


def report_bfloat16(pixels: torch.Tensor, tokens: int, sequences: int) -> None:
    """Print how many texts change with the number of sequences in flight."""
    model = random_model(MEDIUM, device=CPU, dtype=torch.bfloat16)
    alone, together = (
        texts_of(answer_all(text_engine(model, NEVER, tokens, count), pixels)) for count in (1, sequences)
    )
    what = f"bfloat16, 1 beside {sequences} in flight"
    print(f"\n{what}, random weights: {difference(alone, together)}", flush=True)
    del model
    pictures = [
        decode_image(file.read_bytes(), DecodeOptions()).pixels for file in sorted((GOLDEN / "images").iterdir())
    ]
    golden = ArtiMuse.load(golden_checkpoint("artimuse"), protocol=ARTIMUSE.name, device="cpu", dtype="bfloat16")
    found = []
    for count in (1, sequences):
        engine = golden.describer(max_new_tokens=tokens, sequences=count).engine
        found.append(texts_of(answer_all(engine, pictures)))
    print(f"{what}, the tests' tiny checkpoint: {difference(*found)}")


if __name__ == "__main__":
    sys.exit(main())
