"""The scoring version: a number that stands for all code between an image's bytes and its score.

It is raised by a change after which the same image, checkpoint, protocol, options and precision give another score.
Then stores of before are refused, by name. A change that moves no score leaves it alone, and runs go on with their
stores. `tests/actor/test_scoring_version.py` ties the number to the pixels of the golden pictures and to scores.
"""

from __future__ import annotations

from typing import Final

SCORING_VERSION: Final = 1
