"""The engine's scores against the published loop on a GPU: the scores part of `bench/engine/gpu.py`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median, pstdev
from typing import Final

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from artimuse_actor.checkpoint.network_config import NetworkConfig
from artimuse_actor.engine.device import dtype_name
from artimuse_actor.engine.fp8_products import refuse_without_units
from artimuse_actor.engine.layer_kernels import PlainKernels
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.errors import RunError, UsageError
from artimuse_actor.protocol.protocols import IMAGE_TOKENS
from bench.engine.gpu_table import Row, busiest
from bench.engine.operations import engine_operations, published_operations
from bench.engine.published import PublishedLoop, differences
from bench.engine.random_network import (
    FULL,
    HEAD_TOKENS,
    SMALL,
    TAIL_TOKENS,
    RandomModel,
    quantised_network,
    random_pictures,
    with_layers,
)
from bench.engine.two_sides import Engine
from bench.measure.timing import alternate, peak_memory, release

FLOAT32_TOLERANCE: Final = 1e-3  # points
LOOP: Final = "scores, published loop"
PROMPT_TOKENS: Final = HEAD_TOKENS + IMAGE_TOKENS + TAIL_TOKENS


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


def check_parity(plan: Plan, model: RandomModel) -> bool:
    """Compare fast and slow path in one printed line; True if they agree as far as the precision allows."""
    pixels = random_pictures(plan.parity_images)
    slow = PublishedLoop(model.reference, model.prompts, model.level_ids).score(pixels)
    fast = Engine(model.network, model.prompts, model.level_ids).score(pixels, plan.batch_sizes[-1])
    apart = differences(slow, fast)
    dtype = model.dtype
    what = f"{dtype_name(dtype)}, {model.config.language.num_layers} layers, {len(pixels)} images"
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
    engine = Engine(model.network, model.prompts, model.level_ids)
    try:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            engine.score(random_pictures(1), 1)
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
    engine = Engine(model.network, model.prompts, model.level_ids)
    loop_images = pixels[: max(1, plan.images // 4)]  # a quarter is as steady: each image is a pass of its own
    entered: dict[str, Callable[[], object]] = {
        LOOP: lambda: PublishedLoop(model.reference, model.prompts, model.level_ids).score(loop_images)
    }
    entered |= {batch_name(size): partial(engine.score, pixels, size) for size in plan.batch_sizes}
    if VisionLanguageModel(model.network).kernels is not PlainKernels:
        plain = Engine(model.network, model.prompts, model.level_ids, PlainKernels)
        last = plan.batch_sizes[-1]
        entered |= {f"{batch_name(last)}, torch's operators": partial(plain.score, pixels, last)}
    contestants, memory = dict[str, Callable[[], object]](), dict[str, str]()
    for name, work in entered.items():
        try:
            memory[name] = peak_memory(work, device)  # the warm-up
            contestants[name] = work
        except Exception as error:  # the other contestants go on
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        release(device)
    seconds = {name: median(times) for name, times in alternate(contestants, plan.rounds, device).items()}
    published = len(loop_images) / seconds[LOOP] if LOOP in seconds else 0.0
    bounds = {name: peak / engine_operations(model.config, HEAD_TOKENS, PROMPT_TOKENS) for name in entered}
    bounds[LOOP] = peak / published_operations(model.config, PROMPT_TOKENS)
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


def measure_fp8(plan: Plan, model: RandomModel, peak: float) -> list[Row]:
    """The row of scores by products of 8-bit floats, whose drift is printed; none on a device without units."""
    device = model.level_ids.device
    try:
        refuse_without_units(device, model.dtype)
    except (UsageError, RunError) as error:
        print(error, flush=True)
        return []
    pixels, size = random_pictures(plan.images), plan.batch_sizes[-1]
    whole = Engine(model.network, model.prompts, model.level_ids).score(pixels, size)
    network = quantised_network(model, "fp8-products")
    engine = Engine(network, model.prompts, model.level_ids)
    memory = peak_memory(lambda: engine.score(pixels, size), device)
    seconds = median(alternate({"fp8": lambda: engine.score(pixels, size)}, plan.rounds, device)["fp8"])
    apart = differences(whole, engine.score(pixels, size))
    print(
        f"fp8-products beside {dtype_name(model.dtype)}: {max(apart):.2g} points at most, {fmean(apart):.2g} on average"
    )
    bound = peak / engine_operations(model.config, HEAD_TOKENS, PROMPT_TOKENS)
    return [Row(f"{batch_name(size)}, fp8-products", len(pixels) / seconds, bound_per_s=bound, memory=memory)]


def batch_name(size: int) -> str:
    """The row of scores in batches."""
    return f"scores, B = {size}"


def score_kernels(model: RandomModel, batch_size: int) -> list[str]:
    """The busiest kernels of one score batch, one line each."""
    engine, pixels = Engine(model.network, model.prompts, model.level_ids), random_pictures(batch_size)
    return busiest(lambda: engine.score(pixels, batch_size), model.level_ids.device)
