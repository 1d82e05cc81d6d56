"""Replies to multiple-choice questions → letters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

_NAMED: Final = r"(?i:answer|option|choice)\W*(?:(?i:is|would be|should be)\b)?\W*"
_LONE: Final = r"(?<![\w'’])([{letters}])(?![\w'’])"
_NO_ARTICLE: Final = r"(?!(?<=A)\s+[a-z])"


def published_choice(reply: str) -> str:
    """The first character that is not blank, in upper case, whatever it is; empty of an empty reply.

    "The answer is B" counts as T, and "(B)" as a parenthesis. Source: UniPercept, `eval_vqa.py` at 34660ff.
    """
    return reply.strip().upper()[:1]


def lenient_choice(reply: str, letters: Sequence[str]) -> str | None:
    """The letter that a reply names, in whatever words; None if it names none, or several.

    In this order: the reply is one letter, of either case, whatever is around it; it begins with a letter and a mark,
    as in "B. The light"; it says "answer", "option" or "choice" before a letter; there is one different letter that
    stands alone in it. An A before a word may be an article, and does not count.
    """
    options = "".join(letters)
    text = reply.strip()
    if match := re.fullmatch(rf"\W*([{options}{options.lower()}])\W*", text):
        return match[1].upper()
    if match := re.match(rf"\W*([{options}])\s*[.:,;)\]*\-–—\n]", text):
        return match[1]
    for pattern in (_NAMED + _LONE, _LONE + _NO_ARTICLE):
        if found := set(re.findall(pattern.format(letters=options), text)):
            return found.pop() if len(found) == 1 else None
    return None


def likeliest_choice(probabilities: Mapping[str, float]) -> str:
    """The letter of highest probability as the first token; of equal ones the first."""
    return max(probabilities, key=lambda letter: probabilities[letter])
