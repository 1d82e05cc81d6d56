"""Texts of the fast path with their token ids, and what the slow forward thinks of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter

from artimuse_actor.artimuse import ArtiMuse
from artimuse_actor.engine.model import NO_TOKEN
from artimuse_actor.engine.schedule import GeneratedText
from artimuse_actor.images.options import Pixels
from artimuse_actor.loaded_model import BatchSize
from artimuse_actor.verify.slow_forward import SlowForward

Answers = list[tuple[GeneratedText, ...]]
"""For each image the text of each text question of the protocol."""


def describe(model: ArtiMuse, pixels: Pixels, *, max_new_tokens: int, sequences: BatchSize = "auto") -> Answers:
    """Answer all text questions about (N, 448, 448, 3) images, `sequences` texts at a time."""
    engine = model.describer(max_new_tokens=max_new_tokens, sequences=sequences).engine
    found: dict[int, tuple[GeneratedText, ...]] = {}
    for index, image in enumerate(pixels):
        engine.add(index, image, scored=False)
    while engine.busy:
        found |= {answered.key: answered.texts for answered in engine.step()}
    return [found[index] for index in range(len(pixels))]


def differing(answers: Answers, others: Answers) -> list[tuple[int, int]]:
    """The (image, question) of each text that is not the same in both; the shorter list counts."""
    return [
        (image, question)
        for image, (texts, other_texts) in enumerate(zip(answers, others, strict=False))
        for question, (text, other) in enumerate(zip(texts, other_texts, strict=True))
        if text.token_ids != other.token_ids
    ]


def regrets(slow: SlowForward, pixels: Pixels, answers: Answers, places: Iterable[tuple[int, int]]) -> list[float]:
    """What the slow forward regrets of the texts at these (image, question), see `Finding.regret`."""
    questions = list(slow.protocol.text_questions.values())
    found = []
    for image, of_image in groupby(places, itemgetter(0)):  # so that an image is encoded once for its questions
        tokens = slow.encode(pixels[image])
        for _, question in of_image:
            text = answers[image][question]
            if NO_TOKEN in text.token_ids:
                found.append(math.inf)
                continue
            end = [slow.stop_id] if text.finish_reason == "stop" else []
            found.append(slow.regret(tokens, questions[question], [*text.token_ids, *end]))
    return found
