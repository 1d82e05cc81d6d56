"""The golden set on a device: scores and texts beside the published code's, in one precision with one attention.

With weights of fewer bits scores are beside those of the same weights on the CPU, and the slow forward has them too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from artimuse_actor.checkpoint.network_config import precision_name
from artimuse_actor.engine.attention import Pages
from artimuse_actor.engine.describe import to_text
from artimuse_actor.engine.device import dtype_name
from artimuse_actor.engine.model import NO_TOKEN
from artimuse_actor.errors import NoNumber
from artimuse_actor.protocol.protocols import PROTOCOLS
from artimuse_actor.protocol.tokenizer import load_tokenizer
from artimuse_actor.verify.finding import Finding, largest_difference, logits_of, relative_error
from artimuse_actor.verify.golden import (
    MAX_NEW_TOKENS,
    changed_pictures,
    golden_answers,
    golden_checkpoint,
    golden_model,
    golden_pixels,
    quantised_answers,
)
from artimuse_actor.verify.slow_forward import SlowForward
from artimuse_actor.verify.texts import describe, regrets


def pixel_finding() -> Finding:
    """Check that the golden pictures decode to the pixels that the published code saw."""
    return Finding("pixels of the golden pictures", "uint8", error=len(changed_pictures()) / len(golden_pixels()))


def golden_findings(
    device: torch.device, dtype: torch.dtype, pages: Pages | None = None, quantize: str | None = None
) -> Iterator[Finding]:
    """Check the scores of both checkpoints, and the texts of the one that has texts about one picture."""
    yield golden_scores("artimuse", device, dtype, pages, quantize=quantize)
    yield golden_scores("unipercept", device, dtype, pages, quantize=quantize)
    yield golden_texts(device, dtype, pages, images=1, quantize=quantize)


def golden_scores(
    protocol: str,
    device: torch.device,
    dtype: torch.dtype,
    pages: Pages | None = None,
    images: int | None = None,
    quantize: str | None = None,
) -> Finding:
    """Compare the scores of the first so many golden pictures, or of all."""
    check, precision = f"golden scores, {protocol}", precision_name(dtype_name(dtype), quantize)
    answers = quantised_answers(protocol, quantize) if quantize else golden_answers(protocol)
    model = golden_model(protocol, device, dtype, pages, quantize)
    attention = model.model.pages.__name__
    try:
        found = model.score_pixels(golden_pixels()[:images])
    except NoNumber:
        return Finding(check, precision, attention, points=math.nan, error=math.nan)
    return Finding(
        check,
        precision,
        attention,
        points=largest_difference(found.score, answers.scores[:images]),
        error=relative_error(logits_of(found.distribution), answers.logits[:images]),
    )


def golden_texts(
    device: torch.device,
    dtype: torch.dtype,
    pages: Pages | None = None,
    images: int | None = None,
    quantize: str | None = None,
) -> Finding:
    """Compare the texts about the first so many golden pictures; the slow forward judges those that differ."""
    checkpoint, protocol = golden_checkpoint("artimuse"), PROTOCOLS["artimuse"]
    pixels, expected = golden_pixels()[:images], golden_answers("artimuse").texts[:images]
    model = golden_model("artimuse", device, dtype, pages, quantize)
    answers = describe(model, pixels, max_new_tokens=MAX_NEW_TOKENS)
    tokenizer = load_tokenizer(checkpoint.folder)
    different = [
        (image, question)
        for image, texts in enumerate(answers)
        for question, (title, text) in enumerate(zip(protocol.text_questions, texts, strict=True))
        if NO_TOKEN in text.token_ids or to_text(tokenizer, text.token_ids) != expected[image][title]
    ]
    count = sum(map(len, answers))
    slow = SlowForward(checkpoint, protocol, device, dtype, quantize) if different else None
    return Finding(
        "golden texts, artimuse",
        precision_name(dtype_name(dtype), quantize),
        model.model.pages.__name__,
        texts=count,
        equal_texts=count - len(different),
        regret=max(regrets(slow, pixels, answers, different)) if slow else 0.0,
    )
