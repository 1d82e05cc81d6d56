"""The texts of a store. Imports nothing, so that the model can name columns without pyarrow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

RESERVED_COLUMNS: Final = frozenset(
    (
        *("image_id", "uri", "version", "status", "error_type", "error_message", "retryable"),
        *("width", "height", "format", "sha256", "phash", "warning", "taken_at", "camera", "orientation"),
        *("run_id", "scored_at", "described_at", "shard", "unit", "texts_only", "copied_from", "scored_by"),
        *("described_by", "spent", "pixels", "question"),
    )
)
"""Names that text questions cannot have: columns of every table, or of the blocks that become its rows."""


def text_column(title: str) -> str:
    """The column of a text question: its title in snake case, such as `composition_design`."""
    return re.sub(r"[\W_]+", "_", title.lower()).strip("_")


def letter_suffix(letter: str) -> str:
    """The end of the name of a column with a letter's probabilities, such as `_p_a`."""
    return f"_p_{letter.lower()}"


@dataclass(frozen=True)
class TextSettings:
    """Everything that determines a store's texts beside its fingerprint.

    Attributes:
        titles: of the text questions, in the order of the columns.
        max_new_tokens: limit of a text.
        letters: of options; the probabilities of their tokens as the first one of a text are kept.
    """

    titles: tuple[str, ...]
    max_new_tokens: int
    letters: tuple[str, ...] = ()

    @property
    def columns(self) -> Mapping[str, str]:
        """Column of the texts table → title of the question."""
        return {text_column(title): title for title in self.titles}

    @property
    def all_columns(self) -> tuple[str, ...]:
        """The columns of the texts, of their numbers of tokens, of why they ended, and of letters' probabilities."""
        suffixes = ("", "_tokens", "_finish_reason", *map(letter_suffix, self.letters))
        return tuple(f"{column}{suffix}" for column in self.columns for suffix in suffixes)

    def __str__(self) -> str:
        return f"{len(self.titles)} questions, at most {self.max_new_tokens} tokens each"
