"""The engine against the published loop on a GPU, with the full 8B network in bfloat16.

    python bench/engine/gpu.py [--small] [--device cuda] [--minutes 9] [--out FOLDER]

Needs torch (2.11 or later) and transformers alone, no Ray: the weights are random and made on the device, and so are
prompt and pictures. First the matrix peak that the device reaches, and parity of the fast path with the slow one, for
scores and texts; then images/s, decode steps, tokens/s, and scores by products of 8-bit floats; at the end one table of
them, their share of the bound and memory, the ten busiest kernels of a score batch and of a decode step, and the counts
of `bench/engine/operations.py` with what was measured beside what was predicted. A part that fails loses no other's
result, and each result is in the folder's `results.jsonl` as soon as it is known. Without a GPU, or with --small, the
same code runs on a small network in a minute or two, which measures nothing but itself.

Fails if a part does, if a score is not finite, or if in float32 the two paths differ by more than 1e-3 points or in a
text, where they must agree. In bfloat16 they round differently; what that does to scores and texts is printed, and
belongs to these random weights.
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
from typing import Final

import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started

from artimuse_actor.checkpoint.network_config import NetworkConfig
from artimuse_actor.engine.device import dtype_name, set_arithmetic
from artimuse_actor.engine.fp8_products import refuse_without_units
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.errors import RunError, UsageError
from artimuse_actor.protocol.protocols import IMAGE_TOKENS
from bench.engine.gpu_table import Row, busiest, print_rows
from bench.engine.gpu_texts import (
    FULL_TEXTS,
    SMALL_TEXTS,
    TextPlan,
    check_texts,
    measure_row,
    measure_step,
    report_noise,
)
from bench.engine.guarded_parts import GuardedParts
from bench.engine.operations import engine_operations, published_operations
from bench.engine.published import PublishedLoop, differences
from bench.engine.random_network import (
    FULL,
    HEAD_TOKENS,
    SMALL,
    TAIL_TOKENS,
    RandomModel,
    quantised_network,
    random_model,
    random_pictures,
    with_layers,
)
from bench.engine.text_parity import NEVER
from bench.engine.two_sides import Engine
from bench.measure.machine import commit
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


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 if the paths disagree or a part fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small network, as without a GPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: cuda if any")
    parser.add_argument("--seed", type=int, default=0, help="of weights, prompt and pictures")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which it ends, whatever it does (default 9)")
    parser.add_argument("--out", type=Path, help="a folder for results.jsonl, written as the results come")
    options = parser.parse_args(arguments)

    device = torch.device(options.device)
    set_arithmetic(device)
    small = options.small or device.type == "cpu"
    plan, texts = (SMALL_PLAN, SMALL_TEXTS) if small else (FULL_PLAN, FULL_TEXTS)
    parts = GuardedParts(device, options.minutes, options.out)
    try:
        return measure_all(parts, plan, texts, device, options.seed)
    finally:
        parts.close()


def measure_all(parts: GuardedParts, plan: Plan, texts: TextPlan, device: torch.device, seed: int) -> int:
    """All parts in turn, what matters most first; then the one table."""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    head = f"{device_name(device)}; {versions}, commit {commit()}"
    print(parts.run("machine", lambda: head), flush=True)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16  # older builds for CPUs emulate it, very slowly
    peak = parts.run("matrix peak", lambda: max(matrix_rate(size, device, dtype) for size in plan.matrix_sizes))
    print(f"matrix peak ({dtype_name(dtype)}, measured): {(peak or math.nan) / 1e12:.3g} TFLOP/s", flush=True)
    model = parts.run("float32 model", partial(new_model, plan.float32_network, device, torch.float32, seed))
    agreed = []
    if model:
        agreed.append(parts.run("parity of scores, float32", partial(check_parity, plan, model), expected_s=20))
        agreed.append(parts.run("parity of texts, float32", partial(check_texts, texts, model), expected_s=40))
    del model
    release(device)
    rows: list[Row] = []
    kernels: list[str] = []
    step_s: dict[int, float] = {}
    model = parts.run("model", partial(new_model, plan.network, device, dtype, seed), expected_s=20)
    if model:
        agreed.append(parts.run("parity of scores", partial(check_parity, plan, model), expected_s=20))
        parts.run("attention", partial(show_attention, model))
        rows = parts.run("scores", partial(measure, plan, model, peak or math.nan), expected_s=60) or []
        last = plan.batch_sizes[-1]
        kernels = parts.run("kernels of a score batch", partial(score_kernels, model, last), expected_s=10) or []
        for sequences in reversed(texts.sequences):
            step = parts.run(f"step of {sequences}", partial(measure_step, texts, model, sequences), expected_s=15)
            step_s |= {sequences: step} if step else {}
        for tokens, sequences in texts.rows:
            name, stop_id = f"texts of {tokens}, {sequences} in flight", NEVER
            row = partial(measure_row, texts, model, peak or math.nan, tokens, sequences, stop_id)
            rows += filter(None, [parts.run(name, row, expected_s=40)])
        row = partial(measure_row, texts, model, peak or math.nan, *texts.rows[0], model.stop_id)
        rows += filter(None, [parts.run("texts that end by themselves", row, expected_s=40)])
        rows += parts.run("scores, fp8-products", partial(measure_fp8, plan, model, peak or math.nan)) or []
        parts.run("noise of texts", partial(report_noise, texts, model), expected_s=40)
    del model
    release(device)
    print(
        f"\nmedians of {plan.rounds} rounds in turn ({texts.rounds} of texts), with the published manner; the bound is"
    )
    print("that of the operations that cannot be spared, at the matrix peak\n")
    print_rows(rows)
    print(f"\na score batch of {plan.batch_sizes[-1]}, its busiest kernels:")
    print("\n".join(f"    {part}" for part in kernels), flush=True)
    if plan is FULL_PLAN:
        score_s = next((last / row.images_per_s for row in rows if row.name == batch_name(last)), None)
        parts.run("counts", partial(print_counts, score_s, step_s), expected_s=60)
    print(f"\n{parts.spent_s:.0f} s in all; failed: {', '.join(parts.failed) or 'none'}; ", end="")
    print(f"left out for want of time: {', '.join(parts.skipped) or 'none'}")
    return 0 if all(one is not False for one in agreed) and not parts.failed else 1


def new_model(network: NetworkConfig, device: torch.device, dtype: torch.dtype, seed: int) -> RandomModel:
    """Random weights on the device."""
    return random_model(network, device=device, dtype=dtype, seed=seed)


def show_attention(model: RandomModel) -> str:
    """Print which attention a prefill and a decode step use."""
    line = VisionLanguageModel(model.network).pages.__name__
    if model.level_ids.is_cuda:
        line = f"attention of a prefill: {attention_kernels(model)}; of a decode step: {line}"
    print(line, flush=True)
    return line


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


def print_counts(score_s: float | None, step_s: Mapping[int, float]) -> None:
    """Print the table of `bench/engine/operations.py` with what was measured."""
    from bench.engine.counted_table import ROWS, SCORES, print_table, step_name
    from bench.engine.fake_kernels import FAKE_PAGES

    measured = {step_name(kind, rows): seconds for kind in FAKE_PAGES for rows, seconds in step_s.items()}
    measured |= {SCORES: score_s} if score_s else {}
    print(f"\nsteps as measured are those of the attention in use; {ROWS} rows\n")
    print_table(measured)


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
    engine = Engine(model.network, model.prompts, model.level_ids)
    loop_images = pixels[: max(1, plan.images // 4)]  # a quarter is as steady: each image is a pass of its own
    entered: dict[str, Callable[[], object]] = {
        LOOP: lambda: PublishedLoop(model.reference, model.prompts, model.level_ids).score(loop_images)
    }
    entered |= {batch_name(size): partial(engine.score, pixels, size) for size in plan.batch_sizes}
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


def matrix_rate(size: int, device: torch.device, dtype: torch.dtype, products: int = 20) -> float:
    """Operations a second of a large product of random matrices, the median of a few bursts."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
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
