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
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started

from artimuse_actor.checkpoint.network_config import NetworkConfig
from artimuse_actor.engine.device import dtype_name, set_arithmetic
from artimuse_actor.engine.model import VisionLanguageModel
from bench.engine.gpu_scores import (
    FULL_PLAN,
    SMALL_PLAN,
    Plan,
    attention_kernels,
    batch_name,
    check_parity,
    measure,
    measure_fp8,
    score_kernels,
)
from bench.engine.gpu_table import Row, print_rows
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
from bench.engine.random_network import RandomModel, random_model
from bench.engine.text_parity import NEVER
from bench.measure.machine import commit
from bench.measure.timing import alternate, release


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
    agreed: dict[str, bool | None] = {}
    if model:
        for name, check, expected_s in (
            ("parity of scores, float32", partial(check_parity, plan, model), 20),
            ("parity of texts, float32", partial(check_texts, texts, model), 40),
        ):
            agreed[name] = parts.run(name, check, expected_s=expected_s)
    del model
    release(device)
    rows: list[Row] = []
    kernels: list[str] = []
    step_s: dict[int, float] = {}
    model = parts.run("model", partial(new_model, plan.network, device, dtype, seed), expected_s=20)
    if model:
        agreed["parity of scores"] = parts.run("parity of scores", partial(check_parity, plan, model), expected_s=20)
        parts.run("attention", partial(show_attention, model))
        rows = parts.run("scores", partial(measure, plan, model, peak or math.nan), expected_s=60) or []
        rows += parts.run("scores, fp8-products", partial(measure_fp8, plan, model, peak or math.nan)) or []
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
        parts.run("noise of texts", partial(report_noise, texts, model), expected_s=40)
    del model
    release(device)
    print(
        f"\nmedians of {plan.rounds} rounds in turn ({texts.rounds} of texts), with the published manner; the bound is"
    )
    print("that of the operations that cannot be spared, at the matrix peak\n")
    print_rows(rows)
    verdicts = {True: "ok", False: "FAILED", None: "not known"}
    print("\n" + "; ".join(f"{name}: {verdicts[one]}" for name, one in agreed.items()))
    print(f"\na score batch of {plan.batch_sizes[-1]}, its busiest kernels:")
    print("\n".join(f"    {part}" for part in kernels), flush=True)
    if plan is FULL_PLAN:
        score_s = next((last / row.images_per_s for row in rows if row.name == batch_name(last)), None)
        parts.run("counts", partial(print_counts, score_s, step_s), expected_s=60)
    print(f"\n{parts.spent_s:.0f} s in all; failed: {', '.join(parts.failed) or 'none'}; ", end="")
    print(f"left out for want of time: {', '.join(parts.skipped) or 'none'}")
    return 0 if False not in agreed.values() and not parts.failed else 1


def new_model(network: NetworkConfig, device: torch.device, dtype: torch.dtype, seed: int) -> RandomModel:
    """Random weights on the device."""
    return random_model(network, device=device, dtype=dtype, seed=seed)


def show_attention(model: RandomModel) -> str:
    """Print which attention a prefill and a decode step use."""
    language = VisionLanguageModel(model.network)
    line = language.pages.__name__
    if model.level_ids.is_cuda:
        line = f"attention of a prefill: {attention_kernels(model)}; of a decode step: {line}"
    line += f"; between products: {language.kernels.__name__}"
    print(line, flush=True)
    return line


def print_counts(score_s: float | None, step_s: Mapping[int, float]) -> None:
    """Print the table of `bench/engine/operations.py` with what was measured."""
    from bench.engine.counted_table import ROWS, SCORES, print_table, step_name
    from bench.engine.fake_kernels import FAKE_PAGES

    measured = {step_name(kind, rows): seconds for kind in FAKE_PAGES for rows, seconds in step_s.items()}
    measured |= {SCORES: score_s} if score_s else {}
    print(f"\nsteps as measured are those of the attention in use; {ROWS} rows\n")
    print_table(measured)


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
