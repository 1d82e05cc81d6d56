"""Rows that each step of a curation removed; always input = all removed rows + output."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Final

from artimuse_actor.errors import CurationError
from artimuse_actor.uris import without_secrets
from schemas.curation import CURATION_MARK

FORMAT: Final = 1
"""Folder of a store with the record of each curation, for reports."""


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: the option with its value, or what is removed in any case.
        removed: rows that did not pass it.
        left: rows that did.
    """

    name: str
    removed: int
    left: int


@dataclass
class Funnel:
    """The steps of one curation in order.

    Attributes:
        source: where its rows come from, as the user gave it.
        rows: number of input rows.
        steps: the steps applied.
        notes: messages for the user.
    """

    source: str
    rows: int = 0
    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Rows that passed all steps."""
        return self.steps[-1].left if self.steps else self.rows

    def remove(self, name: str, removed: int) -> None:
        """Add a step.

        Raises:
            CurationError: nothing is left after it.
        """
        before = self.left
        self.steps.append(Step(name, removed, before - removed))
        if not self.left:
            table = "; ".join(f"{step.name} removed {step.removed:,}" for step in self.steps if step.removed)
            raise CurationError(
                f"{self.source}: {name} removed the last {before:,} of {self.rows:,} rows, and nothing is left "
                f"({table}). Nothing was written. Loosen it."
                if before
                else f"{self.source}: there are no rows to choose from. Nothing was written."
            )

    def to_json(self) -> dict[str, Any]:
        """For scripts and reports."""
        return {
            "source": without_secrets(self.source),
            "rows": self.rows,
            "steps": [{"name": step.name, "removed": step.removed, "left": step.left} for step in self.steps],
            "left": self.left,
            "notes": [without_secrets(note) for note in self.notes],
        }


def curation_json(arguments: dict[str, Any], store: dict[str, Any], funnel: Funnel, output: dict[str, Any]) -> str:
    """The JSON beside an output and in the store: the same for the same arguments and store.

    Args:
        arguments: of the command.
        store: where the scores come from.
        funnel: what was removed.
        output: what was written.
    """
    asked = json.dumps([arguments, store], sort_keys=True)
    record = {
        CURATION_MARK: hashlib.sha256(asked.encode()).hexdigest()[:16],
        "format": FORMAT,
        "arguments": arguments,
        "store": store,
        "funnel": funnel.to_json(),
        "output": output,
    }
    return json.dumps(record, indent=1, ensure_ascii=False)
