"""Folders of this repository, whatever folder a test lies in."""

from __future__ import annotations

from pathlib import Path
from typing import Final

REPO: Final = Path(__file__).resolve().parents[2]
GOLDEN: Final = REPO / "tests" / "golden"
GOLDEN_SET: Final = REPO / "artimuse_actor" / "verify" / "golden_set"
