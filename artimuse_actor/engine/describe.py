"""Scores and texts of pictures: the engine's answers as strings, under the names of the questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from artimuse_actor.engine.model import NO_TOKEN
from artimuse_actor.engine.schedule import AnsweredImage, FinishReason
from artimuse_actor.engine.scoring import ImageScore, image_scores, no_number, scores_of
from artimuse_actor.engine.text_engine import TextEngine
from artimuse_actor.images.options import Pixels
from artimuse_actor.protocol.protocols import TURN_END


@dataclass(frozen=True)
class ImageDescription(ImageScore):
    """Scores and texts of one picture.

    Attributes:
        texts: title of the question → answer.
        finish_reasons: title → `stop` if the text ended by itself, `length` if at the limit.
        token_counts: title → tokens of the text, without the one that ended it.
    """

    texts: Mapping[str, str]
    finish_reasons: Mapping[str, FinishReason]
    token_counts: Mapping[str, int]


class Describer:
    """Describes pictures one decode step at a time: the caller adds pictures and takes the finished ones.

    Attributes:
        titles: of the text questions, in order.
        engine: decodes the texts.
    """

    def __init__(
        self, engine: TextEngine, tokenizer: Tokenizer, score_questions: Sequence[str], titles: Sequence[str]
    ) -> None:
        """Name the answers of an engine; use `ArtiMuse.describer` instead."""
        self.engine = engine
        self.titles = tuple(titles)
        self._tokenizer = tokenizer
        self._score_questions = tuple(score_questions)

    def add(self, key: Any, pixels: Pixels, *, scored: bool = True) -> None:
        """Queue a picture of (448, 448, 3) uint8; without `scored` its scores stay empty."""
        self.engine.add(key, pixels, scored=scored)

    def step(self) -> list[tuple[Any, ImageDescription]]:
        """Run one decode step; returns the pictures it finished, with the keys they were added under.

        Raises:
            RunError: not even one text fits into the device's memory.
            NoNumber: the network's answer is NaN or infinite.
        """
        return [(answered.key, self._describe(answered)) for answered in self.engine.step()]

    def _describe(self, answered: AnsweredImage) -> ImageDescription:
        score = ImageScore({}, {}, {})
        if answered.probabilities is not None:
            (score,) = image_scores(self._score_questions, scores_of(answered.probabilities.unsqueeze(0)))
        named = dict(zip(self.titles, answered.texts, strict=True))
        return ImageDescription(
            scores=score.scores,
            stds=score.stds,
            distributions=score.distributions,
            texts={title: to_text(self._tokenizer, text.token_ids) for title, text in named.items()},
            finish_reasons={title: text.finish_reason for title, text in named.items()},
            token_counts={title: len(text.token_ids) for title, text in named.items()},
        )


def to_text(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    """Generated tokens as the published code prints them, made valid UTF-8 for any table.

    Source: ArtiMuse, `InternVLChatModel.chat` at 750d980.

    Raises:
        NoNumber: one is `NO_TOKEN`.
    """
    if NO_TOKEN in token_ids:
        raise no_number()
    text = str(tokenizer.decode(list(token_ids), skip_special_tokens=True))
    text = text.split(TURN_END)[0].strip()
    # UTF-8 has no lone surrogates, so U+FFFD replaces them; the tokenizer already writes invalid bytes that way.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
