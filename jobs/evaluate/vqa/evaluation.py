"""The result of one set of replies to one list of questions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import pyarrow as pa

from artimuse_actor.uris import without_secrets
from jobs.evaluate.benchmarks import revision_of
from jobs.evaluate.vqa.accuracy import CHOICES, Accuracies, PairedComparison
from jobs.evaluate.vqa.presets import SOURCE, QuestionList
from schemas.answers import MISSING
from schemas.fingerprint import Fingerprint
from schemas.scores import OK

_ENDS: Final = {"accuracy": "value", "accuracy_low": "low", "accuracy_high": "high"}


@dataclass(frozen=True)
class VqaEvaluation:
    """Replies beside the right answers.

    Attributes:
        data_set: its name.
        questions: where the list is.
        questions_sha256: of images, questions and answers.
        preset: which published list it is, by its file's name; None for any other.
        out: the store of the replies.
        checkpoint: its label.
        fingerprint: of the replies.
        table: the answers table.
        accuracies: of all questions.
        base_rate: the accuracy of always giving the commonest letter.
        group_by: field of the entries that splits them, if asked for.
        groups: its values → their accuracies.
        against: the replies of another checkpoint to the same questions, if asked for.
    """

    data_set: str
    questions: str
    questions_sha256: str
    preset: QuestionList | None
    out: str
    checkpoint: str
    fingerprint: Fingerprint
    table: pa.Table
    accuracies: Accuracies
    base_rate: float
    group_by: str | None
    groups: Mapping[str, Accuracies]
    against: PairedComparison | None = None

    @property
    def published(self) -> float | None:
        """The published accuracy in percent, if something is published for a checkpoint of this name on all of it."""
        if self.preset is None or self.preset.rows != self.accuracies.rows:
            return None
        return self.preset.published.get(os.path.basename(self.fingerprint.checkpoint.split("@")[0]))

    @property
    def counts(self) -> dict[str, int]:
        """Questions by outcome."""
        statuses = self.table["status"].to_pylist()
        return {
            "questions": len(statuses),
            "answered": statuses.count(OK),
            "failed": len(statuses) - statuses.count(OK) - statuses.count(MISSING),
            "missing": statuses.count(MISSING),
        }

    @property
    def errors(self) -> dict[str, int]:
        """Questions by error type."""
        found = [kind for kind in self.table["error_type"].to_pylist() if kind]
        return {kind: found.count(kind) for kind in found}

    @property
    def where(self) -> str:
        """See `Checkable`."""
        return f"{self.data_set}, {self.checkpoint}"

    def incomplete(self) -> str | None:
        """See `Checkable`."""
        counts = self.counts
        return None if counts["answered"] == counts["questions"] else outcome_line(self)

    def value(self, name: str) -> tuple[float | None, str | None]:
        """See `Checkable`."""
        estimate, counts = self.accuracies.published, self.counts
        found: dict[str, float | None] = {
            **{gate: getattr(estimate, end) for gate, end in _ENDS.items()},
            "n": self.accuracies.rows,
            "completeness": counts["answered"] / counts["questions"],
            "base_rate": self.base_rate,
        }
        if name not in found:
            return None, f"Of multiple choice there are {', '.join(found)}."
        return found[name], estimate.reason

    def to_json(self) -> dict[str, Any]:
        """Everything except the rows themselves."""
        preset, published = self.preset, self.published
        known_by = {"matched_by": "name", "revision": revision_of(self.fingerprint.checkpoint)}
        return {
            "data_set": self.data_set,
            "questions": without_secrets(self.questions),
            "questions_sha256": self.questions_sha256,
            "checkpoint": self.checkpoint,
            "out": without_secrets(self.out),
            "fingerprint": asdict(self.fingerprint),
            "counts": {**self.counts, "images": self.accuracies.images, "errors": self.errors},
            "accuracies": accuracies_json(self.accuracies),
            "base_rate": self.base_rate,
            "group_by": self.group_by,
            "groups": {name: accuracies_json(found) for name, found in self.groups.items()},
            "published": None
            if preset is None or published is None
            else {"accuracy": published / 100, "chance": preset.chance / 100, "source": SOURCE} | known_by,
            "against": asdict(self.against) if self.against else None,
        }


def accuracies_json(found: Accuracies) -> dict[str, Any]:
    """Accuracies by how the letter is found."""
    return {
        CHOICES[column].replace(" ", "_"): {"right": found.right[column], "rows": found.rows, **asdict(estimate)}
        for column, estimate in found.estimates.items()
    }


def outcome_line(found: VqaEvaluation) -> str:
    """How many questions have a reply, and why the others have none."""
    counts = found.counts
    line = f"{counts['answered']:,} of {counts['questions']:,} questions answered"
    if counts["failed"]:
        errors = ", ".join(f"{number:,} {kind}" for kind, number in found.errors.items())
        line += f"; {counts['failed']:,} failed ({errors})"
    if counts["missing"]:
        line += f"; {counts['missing']:,} not asked yet"
    return line
