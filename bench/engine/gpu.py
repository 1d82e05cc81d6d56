"""The engine against the published loop on a GPU, with the full 8B network in bfloat16.

    python bench/engine/gpu.py [--small] [--device cuda]

Needs torch and transformers alone: the weights are random and made on the device, and so are prompt and pictures. In
turn: the matrix peak the device reaches, parity of the fast path with the slow one, and images/s of both; then parity
and speed with eight texts an image (`bench/engine/gpu_texts.py`). Without a GPU, or with --small, the same code runs on
a small network in under a minute, which measures nothing but itself.

Fails if a score is not finite, or if in float32 the two paths differ by more than 1e-3 points or in a text, where they
must agree. In bfloat16 they round differently; what that does to scores and texts is printed, and belongs to these
random weights.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
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
GOAL_IMAGES_PER_S: Final = 70
GOAL_RATIO: Final = 4
LOOP: Final = "published loop"


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
        print(f"attention: {attention_kernels(model)}", flush=True)
    measure(plan, model, peak)
    print(flush=True)
    del model
    release(device)
    networks = plan.float32_network, plan.network
    agreed = run_texts(texts, *networks, device=device, seed=options.seed, peak=peak) and agreed
    print(f"\n{perf_counter() - started:.0f} s in all")
    return 0 if agreed else 1


def check_parity(plan: Plan, model: RandomModel) -> bool:
    """Compare fast and slow path in one printed line; True if they agree as far as the precision allows."""
    pixels = random_pictures(plan.parity_images)
    slow = PublishedLoop(model.network, model.prompts, model.level_ids).score(pixels)
    fast = Engine(model.network, model.prompts, model.level_ids).score(pixels, plan.batch_sizes[-1])
    apart = differences(slow, fast)
    dtype = model.network.dtype
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


def measure(plan: Plan, model: RandomModel, peak: float) -> None:
    """Time both paths and print the table.

    Args:
        plan: batch sizes, images and rounds.
        model: on its device.
        peak: operations a second that the device was seen to reach.
    """
    device = model.level_ids.device
    pixels = random_pictures(plan.images)
    loop = PublishedLoop(model.network, model.prompts, model.level_ids)
    engine = Engine(model.network, model.prompts, model.level_ids)
    loop_images = pixels[: max(1, plan.images // 4)]  # a quarter is as steady: each image is a pass of its own
    contestants: dict[str, Callable[[], object]] = {}
    counted: dict[str, int] = {}
    images: dict[str, int] = {}
    memory: dict[str, str] = {}

    def enter(name: str, work: Callable[[], object], count: int, operations: int) -> None:
        try:
            memory[name] = peak_memory(work, device)  # the warm-up
        except torch.OutOfMemoryError:
            print(f"{name}: does not fit into the device's memory", flush=True)
            return
        finally:
            release(device)
        contestants[name], images[name], counted[name] = work, count, operations

    operations = published_operations(model.config, loop.prompt_tokens)
    enter(LOOP, partial(loop.score, loop_images), len(loop_images), operations)
    operations = engine_operations(model.config, HEAD_TOKENS, loop.prompt_tokens)
    for size in plan.batch_sizes:
        enter(f"engine, B = {size}", partial(engine.score, pixels, size), len(pixels), operations)
    seconds = alternate(contestants, plan.rounds, device)

    rates = {name: images[name] / median(times) for name, times in seconds.items()}  # images/s
    scale, prefix = (1e12, "T") if counted[LOOP] > 1e11 else (1e9, "G")
    print(f"\n{plan.rounds} rounds in turn, medians; {plan.images} images a round, {len(loop_images)} for the loop\n")
    print(f"|                | images/s | of the loop | {prefix}FLOP/image | of the peak | memory, GiB |")
    print("| -------------- | -------- | ----------- | ----------- | ----------- | ----------- |")
    for name, rate in rates.items():
        print(
            f"| {name:14} | {rate:8.2f} | {rate / rates[LOOP]:10.2f}x | {counted[name] / scale:11.2f} "
            f"| {rate * counted[name] / peak:11.1%} | {memory[name]:>11} |"
        )
    best = max(rates.values())
    print(f"\nbest {best:.1f} images/s, {best / rates[LOOP]:.2f} times the loop ", end="")
    print(f"(goal on an H200: {GOAL_IMAGES_PER_S} images/s and {GOAL_RATIO} times)")


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
