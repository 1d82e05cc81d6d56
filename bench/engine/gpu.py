"""The engine against the published loop on a GPU, with the full 8B network in bfloat16.

    python bench/engine/gpu.py [--small] [--device cuda]

Needs torch (2.11 or later) and transformers alone, no Ray: the weights are random and made on the device, and so are
prompt and pictures. First the matrix peak that the device reaches, the attention that it can run, and parity of the
fast path with the slow one, for scores and texts; then one table of images/s, tokens/s, their share of the bound and
memory, the ten busiest kernels of a score batch and of a decode step, and the counts of `bench/engine/operations.py`
with what was measured beside what was predicted. Without a GPU, or with --small, the same code runs on a small network
in under a minute, which measures nothing but itself.

Fails if a score is not finite, or if in float32 the two paths differ by more than 1e-3 points or in a text, where they
must agree. In bfloat16 they round differently; what that does to scores and texts is printed, and belongs to these
random weights.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median, pstdev
from time import perf_counter
from typing import Final

import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started

from artimuse_actor.checkpoint.network_config import NetworkConfig
from artimuse_actor.engine.device import set_arithmetic
from artimuse_actor.engine.model import VisionLanguageModel
from bench.engine.gpu_table import Row, busiest, print_rows
from bench.engine.gpu_texts import FULL_TEXTS, SMALL_TEXTS, run_texts
from bench.engine.operations import engine_operations, published_operations
from bench.engine.published import PublishedLoop, differences
from bench.engine.random_network import (
    FULL,
    HEAD_TOKENS,
    SMALL,
    RandomModel,
    random_model,
    random_pictures,
    with_layers,
)
from bench.engine.two_sides import Engine
from bench.measure.machine import commit
from bench.measure.timing import alternate, peak_memory, release

FLOAT32_TOLERANCE: Final = 1e-3  # points
LOOP: Final = "scores, published loop"


@dataclass(frozen=True)
class Plan:
    """Sizes of the measurement.

    Attributes:
        network: the sizes timed, in bfloat16.
        float32_network: the sizes on which both paths must agree.
        batch_sizes: of the engine.
        images: of one contestant in one round.
        rounds: of all contestants.
        parity_images: compared in either precision.
        matrix_sizes: edges of the square products that look for the peak.
    """

    network: NetworkConfig
    float32_network: NetworkConfig
    batch_sizes: Sequence[int]
    images: int
    rounds: int
    parity_images: int
    matrix_sizes: Sequence[int]


FULL_PLAN: Final = Plan(FULL, with_layers(FULL, 4), (1, 8, 16, 32, 64), 64, 5, 32, (8192, 16384))
SMALL_PLAN: Final = Plan(SMALL, SMALL, (1, 4), 4, 3, 4, (512,))


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 if the paths disagree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small network, as without a GPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: cuda if any")
    parser.add_argument("--seed", type=int, default=0, help="of weights, prompt and pictures")
    options = parser.parse_args(arguments)

    started = perf_counter()
    device = torch.device(options.device)
    set_arithmetic(device)
    small = options.small or device.type == "cpu"
    plan, texts = (SMALL_PLAN, SMALL_TEXTS) if small else (FULL_PLAN, FULL_TEXTS)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{device_name(device)}; {versions}, commit {commit()}")
    language = plan.network.language
    print(f"language model: {language.num_layers} layers of {language.hidden_size}, vocabulary {language.vocab_size}")
    print(flush=True)

    peak = max(matrix_rate(size, device) for size in plan.matrix_sizes)
    print(f"matrix peak (bfloat16, measured): {peak / 1e12:.3g} TFLOP/s", flush=True)
    model = random_model(plan.float32_network, device=device, dtype=torch.float32, seed=options.seed)
    agreed = check_parity(plan, model)
    del model
    release(device)
    model = random_model(plan.network, device=device, dtype=torch.bfloat16, seed=options.seed)
    agreed = check_parity(plan, model) and agreed
    if device.type == "cuda":
        pages = VisionLanguageModel(model.network).pages
        print(f"attention of a prefill: {attention_kernels(model)}; of a decode step: {pages.__name__}", flush=True)
    rows = measure(plan, model, peak)
    score_s = plan.batch_sizes[-1] / rows[-1].images_per_s if rows[-1].images_per_s else None
    kernels = score_kernels(model, plan.batch_sizes[-1])
    del model
    release(device)
    networks = plan.float32_network, plan.network
    text_agreed, text_rows, step_s = run_texts(texts, *networks, device=device, seed=options.seed, peak=peak)
    print(
        f"\nmedians of {plan.rounds} rounds in turn ({texts.rounds} of texts), with the published manner; the bound is"
    )
    print("that of the operations that cannot be spared, at the matrix peak\n")
    print_rows([*rows, *text_rows])
    print(f"\na score batch of {plan.batch_sizes[-1]}, its busiest kernels:")
    print("\n".join(f"    {part}" for part in kernels))
    if not small:
        print_counts(score_s, step_s)
    print(f"\n{perf_counter() - started:.0f} s in all")
    return 0 if agreed and text_agreed else 1


def score_kernels(model: RandomModel, batch_size: int) -> list[str]:
    """The busiest kernels of one score batch, one line each."""
    engine, pixels = Engine(model.network, model.prompts, model.level_ids), random_pictures(batch_size)
    return busiest(lambda: engine.score(pixels, batch_size), model.level_ids.device)


def print_counts(score_s: float | None, step_s: Mapping[int, float]) -> None:
    """Print the table of `bench/engine/operations.py` with what was measured."""
    try:
        from bench.engine.counted_table import ROWS, SCORES, print_table, step_name
        from bench.engine.fake_kernels import FAKE_PAGES

        measured = {step_name(kind, rows): seconds for kind in FAKE_PAGES for rows, seconds in step_s.items()}
        measured |= {SCORES: score_s} if score_s else {}
        print(f"\nsteps as measured are those of the attention in use; {ROWS} rows\n")
        print_table(measured)
    except Exception as error:  # another torch may lack what the counts need; the measurements stand
        print(f"not counted with torch {torch.__version__}: {error}")


def check_parity(plan: Plan, model: RandomModel) -> bool:
    """Compare fast and slow path in one printed line; True if they agree as far as the precision allows."""
    pixels = random_pictures(plan.parity_images)
    slow = PublishedLoop(model.reference, model.prompts, model.level_ids).score(pixels)
    fast = Engine(model.network, model.prompts, model.level_ids).score(pixels, plan.batch_sizes[-1])
    apart = differences(slow, fast)
    dtype = model.dtype
    what = f"{str(dtype).removeprefix('torch.')}, {model.config.language.num_layers} layers, {len(pixels)} images"
    print(
        f"parity, {what}: "
        f"{max(apart):.2g} points at most, {fmean(apart):.2g} on average "
        f"(scores {min(slow):.1f} to {max(slow):.1f}, deviation {pstdev(slow):.2f})",
        flush=True,
    )
    if not all(map(math.isfinite, [*slow, *fast])):
        print("FAILED: a score is not finite.", file=sys.stderr)
        return False
    if dtype == torch.float32 and max(apart) > FLOAT32_TOLERANCE:
        print(f"FAILED: more than {FLOAT32_TOLERANCE:g} points in float32.", file=sys.stderr)
        return False
    return True


def attention_kernels(model: RandomModel) -> str:
    """Check that every attention of the engine can use SDPA's flash kernel: all others are forbidden for one image."""
    try:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            Engine(model.network, model.prompts, model.level_ids).score(random_pictures(1), 1)
    except RuntimeError as error:
        return f"not always the flash kernel ({str(error).splitlines()[0]})"
    return "SDPA's flash kernel takes every call"


def measure(plan: Plan, model: RandomModel, peak: float) -> list[Row]:
    """Time both paths: rows of the table, the published loop's first.

    Args:
        plan: batch sizes, images and rounds.
        model: on its device.
        peak: operations a second that the device was seen to reach.
    """
    device = model.level_ids.device
    pixels = random_pictures(plan.images)
    loop = PublishedLoop(model.reference, model.prompts, model.level_ids)
    engine = Engine(model.network, model.prompts, model.level_ids)
    loop_images = pixels[: max(1, plan.images // 4)]  # a quarter is as steady: each image is a pass of its own
    entered: dict[str, Callable[[], object]] = {LOOP: partial(loop.score, loop_images)}
    entered |= {f"scores, B = {size}": partial(engine.score, pixels, size) for size in plan.batch_sizes}
    contestants, memory = dict[str, Callable[[], object]](), dict[str, str]()
    for name, work in entered.items():
        try:
            memory[name] = peak_memory(work, device)  # the warm-up
            contestants[name] = work
        except torch.OutOfMemoryError:
            pass
        release(device)
    seconds = {name: median(times) for name, times in alternate(contestants, plan.rounds, device).items()}
    published = len(loop_images) / seconds[LOOP]
    bounds = {name: peak / engine_operations(model.config, HEAD_TOKENS, loop.prompt_tokens) for name in entered}
    bounds[LOOP] = peak / published_operations(model.config, loop.prompt_tokens)
    return [
        Row(
            name,
            images_per_s=len(loop_images if name == LOOP else pixels) / seconds[name],
            published_per_s=published,
            bound_per_s=bounds[name],
            memory=memory[name],
        )
        if name in seconds
        else Row(name)
        for name in entered
    ]


def matrix_rate(size: int, device: torch.device, products: int = 20) -> float:
    """Operations a second of a large product of random bfloat16 matrices, the median of a few bursts."""
    left = torch.randn(size, size, device=device).to(torch.bfloat16)
    right = torch.randn(size, size, device=device).to(torch.bfloat16)
    out = torch.empty_like(left)

    def burst() -> None:
        for _ in range(products):
            torch.mm(left, right, out=out)

    burst()
    times = alternate({"burst": burst}, 5, device)["burst"]
    return products * 2 * size**3 / median(times)


def device_name(device: torch.device) -> str:
    """The device's name, from the driver."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"


if __name__ == "__main__":
    sys.exit(main())
