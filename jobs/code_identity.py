"""Which code this is, and the refusal of a process that runs other code than the driver of its run.

A stale install beside a checkout, a checkout that was edited meanwhile, another Pillow on one node: each gives scores
that look right and are not the others'. So every process of a run compares itself with the driver once, before it does
anything: by a digest of our sources, and by the versions of the packages that change a score or a table.

The part of a version behind the `+` is not compared: it names a build (`+cpu`, `+cu128`), and a driver needs no GPU.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from artimuse_actor.errors import RunError

CODE_VERSION: Final = "0.1.0"

_OURS: Final = ("artimuse_actor", "jobs", "schemas")
_CHECKOUT_ONLY: Final = "jobs/demo/training/"  # not in the wheel, which is the same code as its checkout
_LOADING: Final = ("numpy", "pillow", "pyarrow")
_SCORING: Final = (*_LOADING, "tokenizers", "torch", "transformers")


@dataclass(frozen=True)
class CodeIdentity:
    """The code of a process; picklable, so that tasks anywhere can compare theirs.

    Attributes:
        sources: SHA-256 over the names and contents of our Python files, as 64 hexadecimal digits.
        versions: of packages that change a score or a table, by name; those that are not installed are left out.
    """

    sources: str
    versions: tuple[tuple[str, str], ...]

    def check_loading(self) -> None:
        """Refuse a process that decodes images, or writes tables, by other code; it may lack a model's packages.

        Raises:
            RunError: names the node, and what differs.
        """
        _refuse_others(self, _LOADING)

    def check_scoring(self) -> None:
        """The same for a process that holds a model."""
        _refuse_others(self, _SCORING)


@lru_cache(maxsize=1)
def this_code() -> CodeIdentity:
    """What this process runs; read from the disk once."""
    files = hashlib.sha256()
    for name, path in _source_files():
        files.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    versions = ((package, package_version(package)) for package in _SCORING)
    return CodeIdentity(files.hexdigest(), tuple((package, found) for package, found in versions if found))


def package_version(package: str) -> str | None:
    """The version of an installed package, without importing it; None if there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@lru_cache(maxsize=4)  # once for each process: what is refused is not kept, and stops the run
def _refuse_others(driver: CodeIdentity, packages: tuple[str, ...]) -> None:
    here = this_code()
    different = []
    if here.sources != driver.sources:
        folder = _folder_of("jobs").parent
        different.append(f"sources {here.sources[:6]} in {folder} instead of {driver.sources[:6]}")
    ours, theirs = dict(here.versions), dict(driver.versions)
    different += [
        f"{package} {ours.get(package, 'missing')} instead of {theirs.get(package, 'none')}"
        for package in packages
        if _release(ours.get(package)) != _release(theirs.get(package))
    ]
    if different:
        raise RunError(
            f"Node {socket.gethostname()} runs other code than the driver: {', '.join(different)}. Install the same on "
            "all nodes, or leave that one out, and run again; what was committed stays."
        )


def _release(version: str | None) -> str | None:
    return version and version.partition("+")[0]


def _source_files() -> Iterator[tuple[str, Path]]:
    for package in _OURS:
        folder = _folder_of(package)
        for path in sorted(folder.rglob("*.py")):
            name = path.relative_to(folder.parent).as_posix()
            if "/." not in name and not name.startswith(_CHECKOUT_ONLY):  # what editors and notebooks leave
                yield name, path


def _folder_of(package: str) -> Path:
    return Path(str(import_module(package).__file__)).parent
