"""The prompts of the models, verbatim.

A protocol is data: the system message, the questions whose answer is a score, the questions whose answer is a text,
and the 101 tokens that stand for the levels 0…100. The wordings were fixed when the models were trained, with their
line breaks, indents, trailing blanks and misprints, so nothing here may be tidied up.

Sources: thunderbolt215/ArtiMuse at 750d980, thunderbolt215/UniPercept at 34660ff. Two kinds of places differ between
the two: the text after the image starts with a line break everywhere but in UniPercept's score questions, and
UniPercept's level table has two misprints ("73-ec, 74-ed").
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from string import ascii_lowercase
from typing import Literal, Self, TypeAlias

from artimuse_actor.errors import UsageError
from schemas.text_settings import text_column

IMAGE_TOKENS = 256
"""Tokens one image takes between `<img>` and `</img>`: (448 / 14 / 2)²."""

DEFAULT_MAX_NEW_TOKENS, MAX_NEW_TOKENS = 512, 8192
"""Default limit of a text, and the published one. 95% of the published answers have at most 107 words."""

Rounding: TypeAlias = Literal["none", "logits", "scores"]
"""What is rounded to the network's precision: nothing after the last hidden state, the logits, or also what follows."""

IMAGE_START, IMAGE_CONTEXT, IMAGE_END = "<img>", "<IMG_CONTEXT>", "</img>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
PROMPT_MARKS = (TURN_START, TURN_END, IMAGE_START, IMAGE_CONTEXT, IMAGE_END)
"""The tokens of the template, which no question may contain."""

LEVELS: tuple[str, ...] = tuple(
    f"{first}{second}"
    for first, seconds in zip(
        "acde", (ascii_lowercase, ascii_lowercase[:25], ascii_lowercase[:25], ascii_lowercase[:25]), strict=True
    )
    for second in seconds
)
"""The 101 score tokens aa…az, ca…cy, da…dy, ea…ey; the k-th stands for level k."""

SYSTEM_MESSAGE = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)


@dataclass(frozen=True)
class Protocol:
    """One model's questions.

    Attributes:
        name: its name for `--protocol` and in the fingerprint.
        score_questions: column of the scores table → text that follows the image.
        text_questions: title of an expert text → text that follows the image.
        system_message: the beginning of every prompt.
        levels: the tokens of the levels 0…100, in order.
    """

    name: str
    score_questions: Mapping[str, str]
    text_questions: Mapping[str, str]
    system_message: str = SYSTEM_MESSAGE
    levels: tuple[str, ...] = LEVELS

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all prompts and levels, as 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def choose_texts(self, names: Sequence[str] | None = None) -> dict[str, str]:
        """Some of the text questions, in the order of the protocol; all of them if no names are given.

        Args:
            names: titles or columns, in any case; one may stand alone.

        Raises:
            UsageError: the protocol has no such question, or none was named.
        """
        if names is None:
            return dict(self.text_questions)
        names = [names] if isinstance(names, str) else names
        titles = {text_column(title): title for title in self.text_questions}
        asked = [text_column(name) for name in names]
        unknown = [name for name, column in zip(names, asked, strict=True) if column not in titles]
        if unknown or not asked:
            near = get_close_matches(text_column(unknown[0]), titles, 1) if unknown else []
            hint = f" Did you mean {titles[near[0]]!r}?" if near else ""
            what = f"has no text question {unknown[0]!r}.{hint}" if unknown else "was asked no text question."
            raise UsageError(f"Protocol {self.name} {what} It has: {', '.join(titles)}.")
        return {title: self.text_questions[title] for column, title in titles.items() if column in asked}

    def of_checkpoint(self, system_message: str | None) -> Self:
        """The same questions with the system message that a checkpoint brings along, in place of the template's own."""
        if system_message is None or self.system_message != SYSTEM_MESSAGE:
            return self
        return replace(self, system_message=system_message)

    @property
    def prompt_head(self) -> str:
        """The prompt before the image, the same for every image and question."""
        return f"{TURN_START}system\n{self.system_message}{TURN_END}\n{TURN_START}user\n"

    def prompt(self, text_after_image: str) -> str:
        """The whole prompt of one question, the image written out as its placeholder tokens."""
        image = f"{IMAGE_START}{IMAGE_CONTEXT * IMAGE_TOKENS}{IMAGE_END}"
        return f"{self.prompt_head}{image}{text_after_image}{TURN_END}\n{TURN_START}assistant\n"


@dataclass(frozen=True)
class AsPublished(Protocol):
    """A protocol whose numbers are computed as in the published code, in the network's own precision.

    Attributes:
        rounding: what is rounded to that precision on the way from the last hidden state to a score.
        max_new_tokens: the published limit of a text.
    """

    rounding: Rounding = "logits"
    max_new_tokens: int = MAX_NEW_TOKENS


_ARTIMUSE_SCORE = """
        Rate the aesthetics score of the image in 0-100.\x20
        In the output format, numbers are replaced by 2 corresponding letters,\x20
        and the mapping relationship is:\x20
        score 0 to 25: 0-aa, 1-ab, 2-ac, 3-ad, ... , 25-az,
        score 26 to 50: 26-ca, 27-cb, 28-cc, 29-cd, ..., 50-cy,
        score 51 to 75: 51-da, 52-db, 53-dc, 54-dd, ..., 75-dy,
        score 76 to 100: 76-ea, 77-eb, 78-ec, 79-ed, ..., 100-ey.

        The answer only outputs 2 corresponding letters.
        """

_UNIPERCEPT_SCORE = (
    "Rate the {aspect} score of the image in 0-100. In the output format, numbers are replaced by 2 corresponding "
    "letters, and the mapping relationship is: score 0 to 25: 0-aa, 1-ab, 2-ac, 3-ad, ... , 25-az, \n"
    "score 26 to 50: 26-ca, 27-cb, 28-cc, 29-cd, ..., 50-cy, \n"
    "score 51 to 75: 51-da, 52-db, 53-dc, 54-dd, ..., 75-dy, \n"
    "score 76 to 100: 76-ea, 77-eb, 73-ec, 74-ed, ..., 100-ey. \n"
    "The answer only outputs 2 corresponding letters."
)

_ASPECTS = (
    "Composition & Design",
    "Visual Elements & Structure",
    "Technical Execution",
    "Originality & Creativity",
    "Theme & Communication",
    "Emotion & Viewer Response",
    "Overall Gestalt",
)

ARTIMUSE = Protocol(
    name="artimuse",
    # The published template puts a line break after the image, and the question opens with one of its own.
    score_questions={"score": "\n" + _ARTIMUSE_SCORE},
    text_questions={
        aspect: f"\nPlease evaluate the aesthetic quality of this image from the aspect of {aspect}."
        for aspect in (*_ASPECTS, "Comprehensive Evaluation")
    },
)

UNIPERCEPT = Protocol(
    name="unipercept",
    score_questions={
        "iaa": _UNIPERCEPT_SCORE.format(aspect="aesthetics"),
        "iqa": _UNIPERCEPT_SCORE.format(aspect="quality"),
        "ista": _UNIPERCEPT_SCORE.format(aspect="structure and texture richness"),
    },
    text_questions={
        **{
            f"IAA-{aspect}": f"\nPlease evaluate the aesthetic quality of this image from the attribute of {aspect}."
            for aspect in _ASPECTS
        },
        "IAA-Comprehensive": "\nAnalyze the aesthetics of this image step by step, providing a comprehensive "
        "description without assigning any score.",
        "IQA-Comprehensive": "\nEvaluate the quality of this image step by step, offering a detailed descriptive "
        "analysis rather than a numerical score.",
        **{
            f"IQA-Distortion {aspect}": f"\nAnalyze the Distortion {aspect} of this image."
            for aspect in ("Location", "Severity", "Type")
        },
        "ISTA-Structural Analysis": "\nPerform a detailed hierarchical analysis of the image’s texture and structure. "
        "For complex scenes, break them down into distinct components and provide the results as structured JSON only, "
        "without any explanations.",
    },
)

# ArtiMuse pins transformers 4.37.2, whose Qwen2 head casts logits to float32; UniPercept 4.49.0, whose head does not,
# so that its softmax and its product with the levels are in bfloat16, too.
_PUBLISHED: Mapping[str, tuple[Rounding, int]] = {
    "artimuse": ("logits", MAX_NEW_TOKENS),
    "unipercept": ("scores", 1024),
}
_AS_PUBLISHED = "+published-arithmetic"

PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in (ARTIMUSE, UNIPERCEPT)}


def check_max_new_tokens(value: int) -> int:
    """Check and return a limit of new tokens.

    Raises:
        UsageError: it is out of range.
    """
    if not 1 <= value <= MAX_NEW_TOKENS:
        raise UsageError(f"--max-new-tokens takes a whole number from 1 to {MAX_NEW_TOKENS}, not {value}.")
    return value


def as_published(protocol: Protocol) -> AsPublished:
    """The same questions with the published arithmetic, as a protocol of its own.

    Raises:
        UsageError: it is no published protocol.
    """
    if protocol.name not in _PUBLISHED:
        raise UsageError(
            f"--published-arithmetic is about the protocols {' and '.join(_PUBLISHED)}; {protocol.name} is not "
            "published."
        )
    rounding, max_new_tokens = _PUBLISHED[protocol.name]
    return AsPublished(
        f"{protocol.name}{_AS_PUBLISHED}",
        protocol.score_questions,
        protocol.text_questions,
        protocol.system_message,
        protocol.levels,
        rounding,
        max_new_tokens,
    )


def published_name(name: str) -> str:
    """The name of a protocol whatever its arithmetic."""
    return name.removesuffix(_AS_PUBLISHED)


def get_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        UsageError: there is none.
    """
    try:
        return PROTOCOLS[name]
    except KeyError:
        raise UsageError(f"There is no protocol {name!r}. Choose one of: {', '.join(PROTOCOLS)}.") from None


def guess_protocol(checkpoint: str) -> Protocol:
    """The protocol that a checkpoint's path suggests: UniPercept's if it says so, else ArtiMuse's.

    The last part of the path that names either decides.
    """
    for part in reversed(checkpoint.lower().split("/")):
        for protocol in (UNIPERCEPT, ARTIMUSE):
            if protocol.name in part:
                return protocol
    return ARTIMUSE
