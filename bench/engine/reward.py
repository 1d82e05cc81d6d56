"""`UniPerceptReward.reward` beside the way of the published package: same weights, same files, in turn.

    python bench/engine/reward.py [--threads 1] [--rounds 5]

The package (unipercept-reward 1.0.3, `inferencer.py`) takes one image at a time, encodes it for each of its three
questions, and computes the logits of the whole vocabulary at every position. It pins other versions of torch and
transformers, so its way is followed here by transformers' own forward. Two networks: the golden checkpoint, which is so
small that all but the network weighs, and one with random weights and the proportions of the published one. Fails if a
score differs by more than 1e-3 points.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, wherever this is started

import torch
from safetensors.torch import save_file

from artimuse_actor import UniPerceptReward
from artimuse_actor.checkpoint.network_config import NetworkConfig
from artimuse_actor.images.decode import decode_image
from artimuse_actor.protocol.prompts import SplitPrompts, image_token_id, level_ids, split_prompts
from artimuse_actor.protocol.protocols import IMAGE_TOKENS, UNIPERCEPT
from artimuse_actor.protocol.tokenizer import load_tokenizer
from artimuse_actor.verify.reference import reference_network
from bench.engine.operations import engine_scores_operations, published_operations
from bench.engine.published import PublishedLoop
from bench.engine.random_network import FULL, HEAD_TOKENS, MEDIUM, TAIL_TOKENS, random_model
from bench.job.photos import make_photos
from bench.measure.machine import ROOT, machine_line
from bench.measure.timing import alternate

GOLDEN: Final = ROOT / "artimuse_actor" / "verify" / "golden_set" / "unipercept" / "checkpoint"
TOLERANCE: Final = 1e-3  # points
_TAIL_SHARED: Final = 3  # `</img>`, "Rate" and "the": then the three questions part


class PublishedReward:
    """One image at a time, encoded for each of the three questions."""

    def __init__(self, scorer: UniPerceptReward) -> None:
        """Put transformers' own modules over the weights of a scorer."""
        model = scorer.model
        files = model.checkpoint
        tokenizer = load_tokenizer(files.folder)
        self.prompts = split_prompts(tokenizer, UNIPERCEPT, UNIPERCEPT.score_questions.values())
        ids = torch.tensor(level_ids(tokenizer, UNIPERCEPT, files.folder, files.config.language.vocab_size))
        network = reference_network(model.model.network, image_token_id(tokenizer))
        self._loops = {
            question: PublishedLoop(network, replace(self.prompts, tails=(tail,)), ids)
            for question, tail in zip(UNIPERCEPT.score_questions, self.prompts.tails, strict=True)
        }

    def reward(self, paths: Sequence[str]) -> list[dict[str, float] | None]:
        """As the package does it."""
        return [self._reward(path) for path in paths]

    def _reward(self, path: str) -> dict[str, float]:
        pixels = torch.tensor(decode_image(Path(path).read_bytes()).pixels).unsqueeze(0)
        return {question: loop.score(pixels)[0] for question, loop in self._loops.items()}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 if the scores differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--rounds", type=int, default=5, help="of both contestants (default 5)")
    parser.add_argument("--images", type=int, default=8, help="of a round (default 8)")
    options = parser.parse_args(arguments)

    torch.set_num_threads(options.threads)
    logging.disable()
    print(f"{machine_line('torch', 'transformers')}; {options.threads} thread(s), float32")
    largest = 0.0
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        base = Path(folder)
        print(f"{make_photos(base / 'photos', options.images)}; {options.rounds} rounds in turn\n")
        paths = sorted(str(path) for path in (base / "photos").iterdir())
        print("| network                  | package, s/image | reward, s/image | ratio (rounds)      | counted |")
        print("| ------------------------ | ---------------: | --------------: | ------------------- | ------: |")
        for name, checkpoint in (("golden, tiny", GOLDEN), ("an eightieth of the real", medium(base / "medium"))):
            largest = max(largest, compare(name, checkpoint, paths, options.rounds))
    head, shared, prompt = (
        HEAD_TOKENS,
        HEAD_TOKENS + IMAGE_TOKENS + _TAIL_SHARED,
        HEAD_TOKENS + IMAGE_TOKENS + TAIL_TOKENS,
    )
    slow = 3 * published_operations(FULL, prompt)
    fast = engine_scores_operations(FULL, head, shared, [prompt] * 3)
    print(
        f"\nthe 8B network, three scores of an image, by counted operations: {slow / 1e12:.1f} TFLOP as published, "
        f"{fast / 1e12:.1f} here, ratio {slow / fast:.2f}"
    )
    print(f"scores differ by {largest:.1e} points at most (allowed {TOLERANCE:.0e})")
    return 0 if largest <= TOLERANCE else 1


def compare(name: str, checkpoint: Path, paths: Sequence[str], rounds: int) -> float:
    """Print a line of the table; returns the largest difference of a score."""
    scorer = UniPerceptReward(checkpoint, device="cpu")
    published = PublishedReward(scorer)
    pairs = list(zip(scorer.reward(paths), published.reward(paths), strict=True))  # also the warm-up
    seconds = alternate(
        {"published": lambda: published.reward(paths), "reward": lambda: scorer.reward(paths)},
        rounds,
        torch.device("cpu"),
    )
    ratios = [slow / fast for slow, fast in zip(seconds["published"], seconds["reward"], strict=True)]
    slow, fast = (median(seconds[name]) / len(paths) for name in ("published", "reward"))
    spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    counted = counted_ratio(scorer.model.checkpoint.config, published.prompts)
    print(f"| {name:24} | {slow:16.3f} | {fast:15.3f} | {spread:19} | {counted:7.2f} |")
    return max(abs(ours[key] - theirs[key]) for ours, theirs in pairs if ours and theirs for key in theirs)


def counted_ratio(config: NetworkConfig, prompts: SplitPrompts) -> float:
    """Operations as published over those of the engine."""
    head = len(prompts.head)
    shared = head + IMAGE_TOKENS + len(prompts.shared)
    lengths = [shared + len(tail) for tail in prompts.tails]
    slow = sum(published_operations(config, length) for length in lengths)
    return slow / engine_scores_operations(config, head, shared, lengths)


def medium(folder: Path) -> Path:
    """A checkpoint of `MEDIUM` with random weights and the golden tokenizer."""
    shutil.copytree(GOLDEN, folder)
    model = random_model(MEDIUM, device=torch.device("cpu"), dtype=torch.float32)
    save_file(dict(model.network.named_parameters()), folder / "model.safetensors")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    vision, language = MEDIUM.vision, MEDIUM.language
    config["vision_config"] |= {
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_hidden_layers": vision.num_layers,
        "num_attention_heads": vision.num_heads,
    }
    config["llm_config"] |= {
        "hidden_size": language.hidden_size,
        "intermediate_size": language.intermediate_size,
        "num_hidden_layers": language.num_layers,
        "num_attention_heads": language.num_heads,
        "num_key_value_heads": language.num_kv_heads,
        "vocab_size": language.vocab_size,
        "rope_theta": language.rope_theta,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


if __name__ == "__main__":
    sys.exit(main())
