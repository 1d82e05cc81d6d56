"""The origin of a score. One output folder stores the scores of one fingerprint.

A precision is part of it, but known later than the rest: a run with nothing to do looks at no GPU. So `same_scores`
leaves it out, and `jobs.store.precision` compares it before a row is written.
"""

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
        scoring: the scoring version of the code, see `artimuse_actor.scoring_version`; stores of before it have 1.
        precision: that of the network, such as `bfloat16`; of a store with several all of them, as `bfloat16+float32`;
            None if it is not known yet, or not recorded.
    """

    checkpoint: str
    checkpoint_digest: str
    protocol: str
    protocol_digest: str
    preprocessing: str
    scoring: int = 1
    precision: str | None = None

    def same_scores(self, other: Fingerprint) -> bool:
        """True if both give the same image the same score in the same precision; names are not compared."""
        return (self.checkpoint_digest, self.protocol_digest, self.preprocessing, self.scoring) == (
            other.checkpoint_digest,
            other.protocol_digest,
            other.preprocessing,
            other.scoring,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of what `same_scores` compares."""
        compared = (self.checkpoint_digest, self.protocol_digest, self.preprocessing, self.scoring)
        return hashlib.sha256(json.dumps(compared).encode()).hexdigest()

    @property
    def precisions(self) -> tuple[str, ...]:
        """All precisions, sorted; empty if none is known."""
        return tuple(self.precision.split("+")) if self.precision else ()

    @property
    def mixture(self) -> str:
        """Several precisions in words, such as `bfloat16 and float32 mixed`; empty if there is one, or none known."""
        return f"{' and '.join(self.precisions)} mixed" if len(self.precisions) > 1 else ""

    def __str__(self) -> str:
        parts = [f"{self.protocol}@{self.protocol_digest[:6]}", self.preprocessing, f"scoring/{self.scoring}"]
        if self.precision:
            parts.append(self.mixture or self.precision)
        return f"{self.checkpoint}@{self.checkpoint_digest[:6]} ({', '.join(parts)})"

    def to_json(self) -> str:
        """One line of JSON, as it stands in the metadata of every scores file."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Fingerprint:
        """The inverse of `to_json`."""
        return cls(**json.loads(text))
