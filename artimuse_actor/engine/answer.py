"""Replies to multiple-choice questions about images: each image is encoded once for all its questions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from artimuse_actor.engine.describe import to_text
from artimuse_actor.engine.schedule import FinishReason, GeneratedText
from artimuse_actor.engine.scoring import no_number
from artimuse_actor.engine.text_engine import TextEngine
from artimuse_actor.images.options import Pixels
from artimuse_actor.protocol.multiple_choice import MultipleChoice
from artimuse_actor.protocol.prompts import prompt_ids


@dataclass(frozen=True)
class Reply:
    """The reply to one question.

    Attributes:
        text: as the published code prints it.
        finish_reason: `stop` if it ended by itself, `length` if at the limit.
        token_count: tokens of the text, without the one that ended it.
        probabilities: letter → probability of its token as the first one, under the softmax over the whole vocabulary.
    """

    text: str
    finish_reason: FinishReason
    token_count: int
    probabilities: Mapping[str, float]


class Answerer:
    """Answers questions one decode step at a time: the caller adds pictures with questions, and takes the replies.

    Attributes:
        engine: decodes the replies.
    """

    def __init__(
        self, engine: TextEngine, tokenizer: Tokenizer, protocol: MultipleChoice, prefix: Sequence[int]
    ) -> None:
        """Ask an engine; use `LoadedModel.answerer` instead.

        Args:
            engine: it watches the tokens of the letters.
            tokenizer: of the checkpoint.
            protocol: the prompt.
            prefix: the tokens that the engine reads for every question, those of the image among them.
        """
        self.engine = engine
        self._tokenizer, self._protocol, self._prefix = tokenizer, protocol, list(prefix)

    def add(self, key: Any, pixels: Pixels, questions: Sequence[str]) -> None:
        """Queue a picture of (448, 448, 3) uint8 with at least one question."""
        self.engine.add(key, pixels, tails=[self._tail(question) for question in questions])

    def step(self) -> list[tuple[Any, list[Reply]]]:
        """Run one decode step; returns the pictures whose last reply it finished, with the replies in order.

        Raises:
            RunError: not even one reply fits into the device's memory.
            NoNumber: a probability is none.
        """
        return [(answered.key, [self._reply(text) for text in answered.texts]) for answered in self.engine.step()]

    def _tail(self, question: str) -> list[int]:
        """What is left of a question's prompt after the tokens that all prompts have in common."""
        ids = prompt_ids(self._tokenizer, self._protocol, self._protocol.text_after_image(question))
        length = len(self._prefix)
        assert ids[:length] == self._prefix, "a question changes how the text before it is cut into tokens"
        return ids[length:]

    def _reply(self, text: GeneratedText) -> Reply:
        if not all(map(math.isfinite, text.watched)):
            raise no_number()
        probabilities = dict(zip(self._protocol.letters, text.watched, strict=True))
        return Reply(to_text(self._tokenizer, text.token_ids), text.finish_reason, len(text.token_ids), probabilities)
