"""Custom questions: a small TOML file → a protocol.

name = "products"
base = "artimuse"           # the protocol whose scores are asked too; this is the default

[texts]
"Main subject" = "What is the main subject of this image?"
"Flaws" = "Which technical flaws does this image have?"
"""

from __future__ import annotations

import tomllib
from typing import Any, Final

from artimuse_actor.checkpoint.checkpoint import Checkpoint, CheckpointIdentity
from artimuse_actor.errors import UsageError, one_line
from artimuse_actor.protocol.protocols import (
    ARTIMUSE,
    PROMPT_MARKS,
    Protocol,
    as_published,
    get_protocol,
    guess_protocol,
)
from schemas.text_settings import RESERVED_COLUMNS, TextSettings

MAX_BYTES: Final = 64 * 1024
MAX_DOTS: Final = 100  # of a line: Python's parser takes time quadratic in the parts of a key
MAX_NAME: Final = 100
_EXAMPLE: Final = (
    'It wants a name and a table [texts] with lines such as "Flaws" = "Which flaws does this image have?".'
)


def open_protocol(name: str) -> Protocol:
    """The protocol of that name, or of that TOML file.

    Raises:
        UsageError: there is none, or the file is not in order; the message names it.
    """
    return read_protocol(name) if name.endswith(".toml") else get_protocol(name)


def choose_protocol(
    asked: str | Protocol | None, checkpoint: Checkpoint | CheckpointIdentity, *, published_arithmetic: bool = False
) -> Protocol:
    """The protocol that is asked for, or else the one that a checkpoint's path suggests, in the arithmetic asked for.

    Its system message is the checkpoint's, if that brings one along.

    Raises:
        UsageError: there is none of that name, its file is not in order, or it has no published arithmetic.
    """
    if asked is None:
        asked = guess_protocol(checkpoint.source)
    found = open_protocol(asked) if isinstance(asked, str) else asked
    return (as_published(found) if published_arithmetic else found).of_checkpoint(checkpoint.system_message)


def read_protocol(path: str) -> Protocol:
    """The protocol that a TOML file describes.

    Raises:
        UsageError: it cannot be read or is not in order.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        _check_size(path, data)
        raw = tomllib.loads(data.decode())
    except OSError as error:
        raise UsageError(f"--protocol {path}: cannot be read: {error.strerror or error}.") from error
    except RecursionError as error:
        raise UsageError(f"--protocol {path}: has brackets too deep inside each other. {_EXAMPLE}") from error
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, and that of a number of thousands of digits
        raise UsageError(f"--protocol {path}: is not TOML: {one_line(str(error))}.") from error
    unknown = sorted(raw.keys() - {"name", "base", "texts"})
    if unknown:
        raise UsageError(f"--protocol {path}: has no meaning for {one_line(unknown[0])!r}. {_EXAMPLE}")
    base = get_protocol(_text(path, "base", raw.get("base", ARTIMUSE.name)))
    name = _name(path, "name", raw.get("name"))
    texts = raw.get("texts")
    if not isinstance(texts, dict) or not texts:
        raise UsageError(f"--protocol {path}: asks nothing. {_EXAMPLE}")
    # The published template has a line break between image and question.
    questions = {_name(path, "a title", title): f"\n{_question(path, title, asked)}" for title, asked in texts.items()}
    _check_columns(path, base, tuple(questions))
    return Protocol(name, base.score_questions, questions, base.system_message, base.levels)


def _check_size(path: str, data: bytes) -> None:
    if len(data) > MAX_BYTES:
        raise UsageError(f"--protocol {path}: has more than {MAX_BYTES:,} bytes. {_EXAMPLE}")
    if any(line.count(b".") > MAX_DOTS for line in data.splitlines()):
        raise UsageError(f"--protocol {path}: has a line of more than {MAX_DOTS} dots. {_EXAMPLE}")


def _text(path: str, key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        kind = "a blank one" if isinstance(value, str) else "nothing" if value is None else type(value).__name__
        raise UsageError(f"--protocol {path}: {key} must be a text, not {kind}. {_EXAMPLE}")
    return value


def _name(path: str, key: str, value: Any) -> str:
    """A text that is shown and stored as a name: one printable line."""
    name = _text(path, key, value)
    if not name.isprintable() or len(name) > MAX_NAME:
        raise UsageError(f"--protocol {path}: {key} must be one line of at most {MAX_NAME} printable characters.")
    return name


def _question(path: str, title: str, value: Any) -> str:
    question = _text(path, f"the question of {title!r}", value)
    mark = next((mark for mark in PROMPT_MARKS if mark in question), None)
    if mark:
        raise UsageError(f"--protocol {path}: the question of {title!r} contains {mark}, which would break the prompt.")
    return question


def _check_columns(path: str, base: Protocol, titles: tuple[str, ...]) -> None:
    """Refuse titles that make no column, or one that is there already."""
    taken = {*RESERVED_COLUMNS, *base.score_questions, *(f"{name}_std" for name in base.score_questions)}
    taken |= {f"{name}_distribution" for name in base.score_questions}
    for title in titles:
        columns = TextSettings((title,), 1).all_columns
        if not columns[0] or not taken.isdisjoint(columns):
            raise UsageError(f"--protocol {path}: {title!r} cannot name a column of the table. Choose another title.")
        taken |= set(columns)
