"""The command `artimuse demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make.")] = Path("artimuse-demo"),
) -> None:
    """Make a small photo library, score it, compare with the truth.

    Takes about a minute on a laptop; needs no GPU and downloads nothing.
    """
    from jobs.demo.run import run_demo

    run_demo(out)
