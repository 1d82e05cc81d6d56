"""Untrusted text made harmless: ids, paths, messages and models' texts are shown as text, whatever they contain.

Jinja escapes HTML. This module handles the rest: marks that turn or hide text, texts that are too long, JSON
within a page, and words of a command that people copy into a shell.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

# Persian words and emoji are made with them, and they turn nothing.
_HARMLESS_FORMATS: Final = "\u200c\u200d\u00ad"
_VISIBLE_SPACES: Final = "\n\t"
_HIDDEN: Final = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_ABOVE_AND_BELOW: Final = "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
_PILED_UP: Final = re.compile(f"({_ABOVE_AND_BELOW}{{4}}){_ABOVE_AND_BELOW}+")  # they reach into the lines around


def visible(text: str) -> str:
    """A text in which control characters and marks that turn or hide text are written out, as in ⟨U+202E⟩."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        mark
        if mark.isprintable() or mark in _VISIBLE_SPACES or mark in _HARMLESS_FORMATS
        else f"⟨U+{ord(mark):04X}⟩"
        if unicodedata.category(mark) in _HIDDEN
        else mark
        for mark in _PILED_UP.sub(r"\1", text)
    )


def size_bytes(text: str) -> int:
    """Bytes of a text on the page, as `script_json` writes it."""
    return len(script_json(text).encode())


def cut(text: str, limit_bytes: int) -> str:
    """The beginning of a text, in about that many bytes, and how much of it is left out."""
    beginning = text
    while (size := size_bytes(beginning)) > max(limit_bytes, 8):
        beginning = beginning[: len(beginning) * limit_bytes // size]
    if beginning == text:
        return text
    return f"{beginning} … ({len(text) - len(beginning):,} more characters are left out here)"


def fair_limit(sizes: Sequence[int], budget: int) -> int:
    """The size to which the largest are cut so that all together keep to a budget; small ones stay whole."""
    left = budget
    for done, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - done)
        if size > share:
            return share
        left -= size
    return max(sizes, default=0)


def script_json(data: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element, or is a line end of JavaScript's own."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text.encode("utf-8", errors="backslashreplace").decode()


def shell_word(text: str) -> str:
    """A word as bash and zsh read it, in which nothing is hidden."""
    if text.isprintable():
        return shlex.quote(text)
    # Bytes that are no text, and marks that nobody sees, in the way of $'…'.
    words = []
    for mark in text:
        if mark.isprintable():
            words.append({"'": "\\'", "\\": "\\\\"}.get(mark, mark))
        else:
            words += [f"\\x{byte:02x}" for byte in os.fsencode(mark)]
    return f"$'{''.join(words)}'"
