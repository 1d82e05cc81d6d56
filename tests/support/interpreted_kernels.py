"""Triton's kernels in its interpreter, on the CPU: a process of its own, since it changes the language.

    TRITON_INTERPRET=1 python -m support.interpreted_kernels

The interpreter knows no products of bfloat16, and rounds to 8-bit floats wrongly; those were seen on a GPU alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final
from unittest.mock import patch

import torch

from artimuse_actor.engine.attention import GatheredPages, Pages, TritonPages
from artimuse_actor.engine.choose_pages import agrees
from artimuse_actor.engine.fp8_products import Float8Rows
from artimuse_actor.engine.layer_kernels import Kernels, PlainKernels, TritonKernels, largest_difference
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.protocol.prompts import SplitPrompts
from bench.engine import two_sides
from bench.engine.random_network import SMALL, RandomModel, random_model, random_pictures, with_layers

CPU: Final = torch.device("cpu")
SIZES: Final = (
    {"heads": 28, "kv_heads": 4, "head_dim": 128},
    {"heads": 4, "kv_heads": 2, "head_dim": 64},
    {"heads": 14, "kv_heads": 2, "head_dim": 32},
    {"heads": 4, "kv_heads": 2, "head_dim": 24},  # as the golden checkpoints have
)
READ_TOKENS: Final = 24
"""Of the score question's 213: each row of a prefill takes the interpreter two milliseconds."""

NEW_TOKENS: Final = 6
"""Of a text: a step reads 311 tokens of an image and its question, then 8 of its own question, then these, so that
the last ones lie in a page of their own."""

PAIRS: Final[tuple[tuple[Kernels, Pages], ...]] = ((PlainKernels, GatheredPages), (TritonKernels, TritonPages))


def layers() -> None:
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float16, 0.002), (torch.bfloat16, 0.05)):
        for sizes in SIZES:
            off = largest_difference(CPU, dtype, **sizes)
            assert off <= tolerance, (dtype, sizes, off)


def pages() -> None:
    for dtype in (torch.float32, torch.float16):
        for sizes in SIZES:
            assert agrees(TritonPages, CPU, dtype, **sizes), (dtype, sizes)


def rows_of_8_bits() -> None:
    """Numbers that need no rounding once they are scaled."""
    generator = torch.Generator().manual_seed(0)
    exact = (200 * torch.randn(7, 300, generator=generator)).clamp(-448, 448).to(torch.float8_e4m3fn).float()  # (M, C)
    exact[:, 7], exact[3] = -448, 0
    hidden = exact.bfloat16() * 2.0 ** torch.arange(-3, 4).unsqueeze(1)
    plain, fused = Float8Rows.by_operators(hidden), Float8Rows.by_kernel(hidden)
    assert torch.equal(plain.scale, fused.scale)
    assert torch.equal(plain.values.float(), exact)
    assert torch.equal(fused.values.float(), exact)


def scores() -> None:
    model, pictures = small_model(), random_pictures(2)
    plain, fused = (
        two_sides.Engine(model.network, model.prompts, model.level_ids, kernels).score(pictures, 2)
        for kernels, _ in PAIRS
    )
    assert max(abs(one - other) for one, other in zip(plain, fused, strict=True)) < 1e-3, (plain, fused)
    assert abs(plain[0] - plain[1]) > 0.1


def texts() -> None:
    model, picture = small_model(), random_pictures(1)
    found = []
    for kernels, pages in PAIRS:
        with patch.object(two_sides, "VisionLanguageModel", using(kernels)):
            engine = two_sides.text_engine(model, model.stop_id, NEW_TOKENS, 2, pages)
        found.append(two_sides.texts_of(two_sides.answer_all(engine, picture)))
    assert found[0] == found[1], found
    assert len(set(found[0][0])) == 2, found  # two texts, and not the same


def using(kernels: Kernels) -> Callable[..., VisionLanguageModel]:
    return lambda network, pages: VisionLanguageModel(network, pages, kernels)


def small_model() -> RandomModel:
    """Two layers, the start of the score question, and two of the text questions."""
    model = random_model(with_layers(SMALL, 2), device=CPU, dtype=torch.float32)
    [score], text = model.prompts.tails, model.text_prompts
    tails = (text.tails[0][:READ_TOKENS], *text.tails[1:3])
    return replace(
        model,
        prompts=replace(model.prompts, tails=(score[:READ_TOKENS],)),
        text_prompts=SplitPrompts(text.head, text.shared, tails),
    )


CHECKS: Final = (layers, pages, rows_of_8_bits, scores, texts)

if __name__ == "__main__":
    for check in CHECKS:
        check()
