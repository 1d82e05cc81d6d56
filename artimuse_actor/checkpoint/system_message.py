"""The system message that a checkpoint brings along, in the key `system_message` of its `config.json`.

It stands in the prompts instead of the template's own, as in the published code, since it is what such a checkpoint was
trained with. A null is none: that code would put the word `None` into every prompt.

Source: unipercept-reward 1.0.3, `InternVLChatModel.__init__`, modeling_unipercept.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from artimuse_actor.checkpoint.network_config import read_json
from artimuse_actor.errors import CheckpointError
from artimuse_actor.protocol.protocols import PROMPT_MARKS

_KEY: Final = "system_message"
_MOST: Final = 10_000  # letters; every prompt has them


def system_message_of(config: Path) -> str | None:
    """The system message of a `config.json`; None for that of the template.

    Raises:
        CheckpointError: it is no text, is too long, or would break the prompt.
    """
    fields = read_json(config)
    message = fields.get(_KEY) if isinstance(fields, dict) else None
    if message is None:
        return None
    if not isinstance(message, str) or len(message) > _MOST:
        raise CheckpointError(
            f"{config}: `{_KEY}` is no text of at most {_MOST:,} letters. Remove the field to ask with the template's "
            "own system message."
        )
    mark = next((mark for mark in PROMPT_MARKS if mark in message), None)
    if mark:
        raise CheckpointError(f"{config}: `{_KEY}` contains {mark}, which would break the prompt.")
    return message
