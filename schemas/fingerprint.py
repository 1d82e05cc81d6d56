"""The origin of a score. One output folder stores the scores of one fingerprint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Fingerprint:
    """Everything that determines a score except the image.

    Attributes:
        checkpoint: its name, for people.
        checkpoint_digest: SHA-256 of its files.
        protocol: its name.
        protocol_digest: SHA-256 of all its prompts.
        preprocessing: from bytes to pixels.
    """

    checkpoint: str
    checkpoint_digest: str
    protocol: str
    protocol_digest: str
    preprocessing: str

    def same_scores(self, other: Fingerprint) -> bool:
        """True if both give the same image the same score; names are not compared."""
        return (self.checkpoint_digest, self.protocol_digest, self.preprocessing) == (
            other.checkpoint_digest,
            other.protocol_digest,
            other.preprocessing,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of what `same_scores` compares."""
        compared = (self.checkpoint_digest, self.protocol_digest, self.preprocessing)
        return hashlib.sha256(json.dumps(compared).encode()).hexdigest()

    def __str__(self) -> str:
        asked = f"{self.protocol}@{self.protocol_digest[:6]}"
        return f"{self.checkpoint}@{self.checkpoint_digest[:6]} ({asked}, {self.preprocessing})"

    def to_json(self) -> str:
        """One line of JSON, as it stands in the metadata of every scores file."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Fingerprint:
        """The inverse of `to_json`."""
        return cls(**json.loads(text))
