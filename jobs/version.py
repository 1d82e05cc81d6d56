"""The version of this code."""

from __future__ import annotations

from typing import Final

CODE_VERSION: Final = "0.1.0"
