"""The identity of the code of a process, and the refusal of a process that runs other code than its driver.

A stale install beside a checkout, a checkout edited during the run, another Pillow on one node: each gives scores that
look right but differ from those of the other processes. So every process of a run compares itself with the driver once,
before it does anything: a digest of our sources, and the versions of the packages that change a score or a table.

The part of a version after the `+` is not compared: it names a build (`+cpu`, `+cu128`), and a driver needs no GPU.
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
_LOADING: Final = ("numpy", "pillow", "pillow-heif", "pillow-jxl-plugin", "pyarrow", "rawpy")
_SCORING: Final = (*_LOADING, "tokenizers", "torch")


@dataclass(frozen=True)
class CodeIdentity:
    """The code of a process; picklable, so that tasks anywhere can compare theirs.

    Attributes:
        sources: SHA-256 over the names and contents of our Python files, as 64 hexadecimal digits.
        versions: (name, version) of each installed package that changes a score or a table.
    """

    sources: str
    versions: tuple[tuple[str, str], ...]

    def check_loading(self) -> None:
        """Refuse a process that would decode images or write tables with other code; model packages are not compared.

        Raises:
            RunError: the code differs; the message names the node and the differences.
        """
        _refuse_others(self, _LOADING)

    def check_scoring(self) -> None:
        """Refuse a process that would run a model with other code. Raises as `check_loading`."""
        _refuse_others(self, _SCORING)


@lru_cache(maxsize=1)
def this_code() -> CodeIdentity:
    """The code of this process; read from the disk once."""
    files = hashlib.sha256()
    for name, path in _source_files():
        files.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    versions = ((package, package_version(package)) for package in _SCORING)
    return CodeIdentity(files.hexdigest(), tuple((package, found) for package, found in versions if found))


def this_commit() -> str | None:
    """The commit of the git checkout that this code is in; None outside one.

    Read from git's files, since a worker may have no git; `CodeIdentity.sources` tells whether a file was changed.
    """
    git = _folder_of("jobs").parent / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        loose, packed = git / name, git / "packed-refs"
        if loose.exists():
            return loose.read_text().strip()
        return next(line.split()[0] for line in packed.read_text().splitlines() if line.endswith(f" {name}"))
    except (OSError, StopIteration):
        return None


def package_version(package: str) -> str | None:
    """The version of an installed package, without importing it; None if there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@lru_cache(maxsize=4)  # compared once in each process; a refusal raises, so it is never cached
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
            if "/." not in name and not name.startswith(_CHECKOUT_ONLY):  # hidden files come from editors and notebooks
                yield name, path


def _folder_of(package: str) -> Path:
    return Path(str(import_module(package).__file__)).parent
