"""Multiple-choice questions: the published prompt around a question that has its options in it.

Source: UniPercept, `eval_vqa.py` at 34660ff. The template and its system message are those of all other prompts, so the
checkpoints of ArtiMuse and of InternVL3 are asked in the same way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from artimuse_actor.protocol.protocols import PROMPT_MARKS, Protocol

LETTERS: Final = ("A", "B", "C", "D")
"""The letters that the prompt asks for."""

MAX_REPLY_TOKENS: Final = 1024
"""The published limit of a reply."""

_IMAGE_MARK: Final = "<image>"  # the published code puts the image there, and not before the question


@dataclass(frozen=True)
class MultipleChoice(Protocol):
    """A protocol whose text question is a prompt around the question of a row.

    Attributes:
        letters: of the options; the probabilities of their tokens as the first one of a reply are kept.
    """

    letters: tuple[str, ...] = LETTERS

    def text_after_image(self, question: str) -> str:
        """The text that follows the image when this question is asked."""
        return self._prompt + question

    @property
    def stem(self) -> str:
        """The text after the image up to its last word before the question.

        A word's tokens end with it; line breaks before a question may be one token with those that it begins with.
        """
        return re.sub(r"\W+$", "", self._prompt)

    @property
    def _prompt(self) -> str:
        (prompt,) = self.text_questions.values()
        return prompt


MULTIPLE_CHOICE: Final = MultipleChoice(
    name="multiple-choice",
    score_questions={},
    text_questions={
        "Reply": "\nGiven the image and the following multiple-choice question, choose the best answer. "
        "Only reply with the letter (A, B, C, or D).\n\nQuestion:\n\n"
    },
)


def prompt_mark(text: str) -> str | None:
    """The mark of the prompt's own that a question contains, which would break the prompt; None if there is none."""
    return next((mark for mark in (*PROMPT_MARKS, _IMAGE_MARK) if mark in text), None)
