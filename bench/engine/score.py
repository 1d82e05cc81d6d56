"""The engine against the published loop on the CPU: same weights, same pictures, in turn.

    python bench/engine/score.py [--threads 1] [--rounds 5]

The network has random weights and the proportions of the published one, so that neither the head nor the last layer,
of which the engine computes next to nothing, weighs more than it does there. Fails if a score differs by more than
1e-4 points.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median, pstdev
from typing import Final

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started

from bench.engine.operations import engine_operations, head_operations, published_operations
from bench.engine.published import PublishedLoop, differences
from bench.engine.random_network import HEAD_TOKENS, MEDIUM, random_model, random_pictures
from bench.engine.two_sides import Engine
from bench.measure.timing import alternate

TOLERANCE: Final = 1e-4  # points
GOAL: Final = 1.15


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 if the scores differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--rounds", type=int, default=5, help="of both contestants (default 5)")
    parser.add_argument("--images", type=int, default=8, help="of a round (default 8)")
    parser.add_argument("--batch-size", type=int, default=2, help="of the engine (default 2, the product's on a CPU)")
    options = parser.parse_args(arguments)

    torch.set_num_threads(options.threads)
    device = torch.device("cpu")
    model = random_model(MEDIUM, device=device, dtype=torch.float32)
    pixels = random_pictures(options.images)
    engine = Engine(model.network, model.prompts, model.level_ids)
    loop = PublishedLoop(model.reference, model.prompts, model.level_ids)

    published = loop.score(pixels)  # also the warm-up
    ours = engine.score(pixels, options.batch_size)
    largest = max(differences(published, ours))
    seconds = alternate(
        {"loop": lambda: loop.score(pixels), "engine": lambda: engine.score(pixels, options.batch_size)},
        options.rounds,
        device,
    )

    counted_loop = published_operations(MEDIUM, loop.prompt_tokens)
    counted_engine = engine_operations(MEDIUM, HEAD_TOKENS, loop.prompt_tokens)
    head_share = head_operations(MEDIUM, loop.prompt_tokens) / counted_loop
    per_image = {name: median(times) / options.images for name, times in seconds.items()}
    ratios = [slow / fast for slow, fast in zip(seconds["loop"], seconds["engine"], strict=True)]
    ratio = per_image["loop"] / per_image["engine"]
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {options.threads} thread(s), float32")
    print(f"{options.rounds} rounds in turn of {options.images} images; the engine in batches of {options.batch_size}")
    print(f"the head over the whole vocabulary is {head_share:.1%} of the loop's operations")
    print()
    print("|                | s/image (median) | GFLOP/image | GFLOP/s |")
    print("| -------------- | ---------------- | ----------- | ------- |")
    for label, name, counted in (("published loop", "loop", counted_loop), ("engine", "engine", counted_engine)):
        rate = counted / per_image[name] / 1e9
        print(f"| {label:14} | {per_image[name]:16.3f} | {counted / 1e9:11.1f} | {rate:7.1f} |")
    print()
    print(f"ratio {ratio:.3f} (rounds {min(ratios):.3f} to {max(ratios):.3f}; goal {GOAL}; ", end="")
    print(f"by counted operations {counted_loop / counted_engine:.3f})")
    print(f"scores differ by {largest:.1e} points at most (allowed {TOLERANCE:.0e}); ", end="")
    print(f"they lie from {min(ours):.2f} to {max(ours):.2f}, deviation {pstdev(ours):.2f}")
    if not largest <= TOLERANCE:
        print("FAILED: the engine's scores are not the published loop's.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
