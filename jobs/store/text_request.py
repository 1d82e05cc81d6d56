"""The texts that a command asked for, combined with those of a store that may have texts already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from artimuse_actor.protocol.multiple_choice import MultipleChoice
from artimuse_actor.protocol.protocols import DEFAULT_MAX_NEW_TOKENS, AsPublished, Protocol, check_max_new_tokens
from schemas.text_settings import TextSettings


@dataclass(frozen=True)
class WantedTexts:
    """The texts that a run was asked for.

    Attributes:
        attributes: titles or columns of text questions; None for those of the store or, without texts there, all of the
            protocol.
        max_new_tokens: tokens of a text; None for the number of the store or, without texts there, the default.
    """

    attributes: Sequence[str] | None = None
    max_new_tokens: int | None = None

    def settings(self, protocol: Protocol, store: TextSettings | None = None) -> TextSettings:
        """The settings of the texts to make, given those of the store.

        Raises:
            UsageError: the protocol has no such question, or the number is out of range.
        """
        if store is None:
            limit = protocol.max_new_tokens if isinstance(protocol, AsPublished) else DEFAULT_MAX_NEW_TOKENS
            store = TextSettings(tuple(protocol.text_questions), limit)
        return TextSettings(
            letters=protocol.letters if isinstance(protocol, MultipleChoice) else (),
            titles=store.titles if self.attributes is None else tuple(protocol.choose_texts(self.attributes)),
            max_new_tokens=check_max_new_tokens(
                store.max_new_tokens if self.max_new_tokens is None else self.max_new_tokens
            ),
        )
