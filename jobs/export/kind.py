"""One form of results: what it is asked for, what it answers, and the errors that all forms have in common.

A form is a module with a function `write(stores, settings)`, named in `jobs.export.export.KINDS`. It replaces what an
earlier export of its kind wrote, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from artimuse_actor.errors import ExportError, UsageError
from jobs.code_identity import CODE_VERSION
from jobs.manifest.manifest import ERROR
from jobs.store.stores import Stores


@dataclass(frozen=True)
class ExportSettings:
    """Everything an export depends on except the stores' content.

    Attributes:
        stores: the --out of runs, or patterns of several.
        kind: of `jobs.export.export.KINDS`.
        out: file or folder to write; None where the user named none.
        allow_mixed: whether the stores' fingerprints may differ.
        on_duplicate: what an id in several stores does: `error` or `first`.
        own: options that only some kinds have, by the name of the command's parameter, as far as they were given.
    """

    stores: tuple[str, ...]
    kind: str
    out: str | None = None
    allow_mixed: bool = False
    on_duplicate: str = ERROR
    own: Mapping[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """The file or folder to write. Raises UsageError if there is none."""
        if self.out is None:
            raise UsageError(f"--as {self.kind} needs --out: the file or folder to write.")
        return self.out


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        out: what was written, as the user named it; for people.
        rows: how many rows it has.
        files: how many files were written.
        notes: sentences about what was left out.
    """

    out: str
    rows: int
    files: int = 1
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For people."""
        files = "" if self.files == 1 else f" in {self.files:,} files"
        return [*self.notes, f"{self.out}: {self.rows:,} rows{files}."]

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)


@dataclass(frozen=True)
class Kind:
    """One form of results.

    Attributes:
        write: writes it.
        options: parameters of the command that belong to it, see `ExportSettings.own`.
    """

    write: Callable[[Stores, ExportSettings], Exported]
    options: tuple[str, ...] = ()


def origin(stores: Stores) -> dict[str, str]:
    """Where scores come from, for the metadata of what is written; later exports recognise their own output by it."""
    return {
        "artimuse.export": CODE_VERSION,
        "artimuse.fingerprint": stores.first.fingerprint.to_json(),
        "artimuse.stores": json.dumps([store.place.root for store in stores.stores]),
    }


def not_ours(out: str) -> ExportError:
    """The error of a target that holds something else."""
    return ExportError(
        f"{out}: is there already and no export wrote it. Nothing was written. Choose another --out, or move it away."
    )
