"""The cells of a benchmark: each checkpoint on each data set, a checkpoint after the other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from artimuse_actor.errors import ArtiMuseError, UsageError
from jobs.evaluate.benchmark_settings import BenchmarkSettings
from jobs.evaluate.checkpoint_labels import label_checkpoints
from jobs.words import show

if TYPE_CHECKING:
    from jobs.score.run import Machines


class Folder(Protocol):
    """A data set as it lies on a disk or on S3."""

    @property
    def name(self) -> str:
        """The name of the data set."""


AnyFolder = TypeVar("AnyFolder", bound=Folder)


@dataclass(frozen=True)
class Cell(Generic[AnyFolder]):
    """One checkpoint on one data set.

    Attributes:
        folder: the data set.
        checkpoint: as the user gave it.
        label: the checkpoint's name in tables and folders, told apart from the others.
        out: the store.
    """

    folder: AnyFolder
    checkpoint: str
    label: str
    out: str

    def __str__(self) -> str:
        return f"{self.folder.name} with {self.label}"

    def base(self, cells: Sequence[Cell[AnyFolder]], checkpoint: str | None) -> Cell[AnyFolder] | None:
        """The cell of the same data set and this checkpoint; None if that is this one, or there is none."""
        found = (cell for cell in cells if cell.checkpoint == checkpoint and cell.folder is self.folder)
        return next((cell for cell in found if cell is not self), None)


def cells_of(settings: BenchmarkSettings, folders: Sequence[AnyFolder], problems: list[str]) -> list[Cell[AnyFolder]]:
    """All cells, in the order of work.

    Raises:
        UsageError: there are problems, or something is wrong with a checkpoint; the message names all that is.
    """
    identities = settings.identify(problems)
    if problems:
        raise UsageError("\n".join(dict.fromkeys(problems)))
    labels, out = label_checkpoints(identities), settings.out.rstrip("/")
    return [
        Cell(folder, checkpoint, labels[checkpoint], f"{out}/{labels[checkpoint]}/{folder.name}")
        for checkpoint in identities
        for folder in folders
    ]


def work_off(
    cells: Sequence[Cell[AnyFolder]],
    address: str | None,
    failed: dict[str, str],
    run: Callable[[Cell[AnyFolder], Machines], None],
) -> None:
    """Run all cells on the same machines; those that fail are noted, and leave the others."""
    from jobs.score.run import machines

    with machines(address) as shared:
        for cell in cells:
            show(str(cell), file=sys.stderr)
            with noted(cell, failed):
                run(cell, shared)


@contextmanager
def noted(cell: Cell[AnyFolder], failed: dict[str, str]) -> Iterator[None]:
    """Say an error of a cell, and note it, so that the others go on."""
    try:
        yield
    except ArtiMuseError as error:
        failed[str(cell)] = str(error)
        show(f"{cell}: {error}", file=sys.stderr)
