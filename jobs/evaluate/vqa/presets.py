"""The published lists of multiple-choice questions, and the accuracies that UniPercept's paper reports on them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from jobs.evaluate.benchmarks import UNIPERCEPT_PAPER

VQA: Final = "vqa"


@dataclass(frozen=True)
class QuestionList:
    """One list of UniPercept-Bench-VQA; accuracies are in percent.

    Attributes:
        domain: what its questions are about: `IAA`, `IQA` or `ISTA`.
        rows: its questions.
        chance: what the paper reports for guessing.
        published: checkpoint → accuracy.
        categories: category → what is printed for UniPercept, and the number of questions, None where it is not said.
        fitting: category → accuracy and number of questions that fit together, where those of `categories` do not.
    """

    domain: str
    rows: int
    chance: float
    published: Mapping[str, float]
    categories: Mapping[str, tuple[float, int | None]]
    fitting: Mapping[str, tuple[float, int]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name in tables and folders."""
        return f"VQA-{self.domain}"

    @property
    def file(self) -> str:
        """The published name of its file."""
        return f"UniPercept-Bench-{self.domain}.json"

    def category(self, name: str) -> str:
        """What is published for a category, in words; empty if nothing is."""
        key = _plain(name)
        printed = next((found for category, found in self.categories.items() if _plain(category) == key), None)
        if printed is None:
            return ""
        accuracy, rows = printed
        fitting = next((found for category, found in self.fitting.items() if _plain(category) == key), None)
        said = f"{accuracy:.2f}" + ("" if rows is None else f" of {rows:,}")
        return said if fitting is None else f"{said} as printed; {fitting[0]:.2f} of {fitting[1]:,} fits"


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


LISTS: Final[Mapping[str, QuestionList]] = {
    one.domain: one
    for one in (
        QuestionList(
            domain="IAA",
            rows=1_015,
            chance=25.17,
            published={"UniPercept": 76.55, "InternVL3-8B": 62.60, "ArtiMuse": 66.31},
            categories={
                "Composition": (80.00, 195),
                "VisualStructure": (77.54, 187),
                "Technical": (69.70, 165),
                "Creativity": (80.56, 108),
                "Theme": (79.26, 135),
                "Emotion": (80.95, 105),
                "Gestalt": (67.53, 77),
                "Comprehensive": (69.77, 43),
            },
        ),
        QuestionList(
            domain="IQA",
            rows=1_088,
            chance=23.16,
            published={"UniPercept": 81.07, "InternVL3-8B": 63.69},
            categories={"Location": (77.43, 545), "Severity": (79.60, 299), "Type": (90.98, 244)},
        ),
        QuestionList(
            domain="ISTA",
            rows=970,
            chance=26.60,
            published={"UniPercept": 84.23, "InternVL3-8B": 74.64},
            categories={
                "Scene": (89.74, None),
                "Physical": (85.71, None),
                "Material": (82.44, None),
                "Geometric": (93.94, None),
                "Semantic": (78.51, None),
            },
            fitting={
                "Geometric": (89.74, 234),
                "Material": (85.71, 182),
                "Physical": (82.44, 279),
                "Scene": (93.94, 33),
                "Semantic": (78.51, 242),
            },
        ),
    )
}
"""Domain → its list. The accuracies of UniPercept are 777 of 1,015, 882 of 1,088 and 817 of 970."""

PUBLISHED_MEANS: Final[Mapping[str, float]] = {"UniPercept": 80.62}
"""Checkpoint → the mean over the domains, each of the same weight."""

SOURCE: Final = UNIPERCEPT_PAPER

ISTA_REMARK: Final = (
    "The paper's accuracies of ISTA's categories only fit numbers of questions with four of its five names in another "
    "order: both are shown."
)
