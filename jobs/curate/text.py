"""The screen of a curation."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from jobs.words import show

if TYPE_CHECKING:
    from jobs.curate.curate import Curation


def show_curation(done: Curation) -> None:
    """The funnel, where the rows are, and the next command."""
    funnel, target = done.funnel, done.target
    width = max(len(name) for name in ("rows", *(step.name for step in funnel.steps)))
    show(f"{'rows':{width}}  {'':>12}  {funnel.rows:>12,}")
    for step in funnel.steps:
        show(f"{step.name:{width}}  {-step.removed:>12,}  {step.left:>12,}")
    for note in funnel.notes:
        show(note)
    show(f"{target.out}: {funnel.left:,} of {funnel.rows:,} rows; this table: {target.place.uri(target.funnel)}")
    if duplicates := done.record["output"]["duplicates"]:
        show(f"  {duplicates:,} duplicates, and what they are like: {target.place.uri(target.groups)}")
    if target.kind == "parquet":
        path = target.place.uri(target.name) if target.folder else target.out
        show(f"Next: artimuse score {shlex.quote(path)} --out rescored")
