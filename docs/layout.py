"""Writes the table of folders into `CONTRIBUTING.md`: a package is described by the first line of its docstring."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "CONTRIBUTING.md"
TABLE: Final = re.compile(r"(?<=<!-- layout: made by `make docs` -->\n).*?(?=<!-- end of layout -->)", re.DOTALL)

# Folders that are no packages have no docstring. Those of `tests/` are in one row.
OTHER_FOLDERS: Final = {
    "bench": "Measurements, in turn with what they are compared with; `RESULTS.md` has what they printed.",
    "bench/engine": "Scores and texts beside the published loop, on a CPU and on a GPU.",
    "bench/job": "The whole job: steady state, emulated cluster, nights, start, costs at scale, other tools.",
    "bench/measure": "Time and memory of a process, and the line that names the machine.",
    "bench/tables": "Planning, evaluation, curation and the report, on millions of rows.",
    "cluster": "KubeRay, Slurm and AWS files and a Dockerfile; no Python.",
    "docs": "Pages; `cli.py` and `layout.py` write those that are generated.",
    "tests": "Folders of the same nouns; `support/` has helpers, `golden/` pictures and the "
    "published code's own answers.",
}


def layout() -> str:
    """The table, in Markdown."""
    rows = [f"| `{folder}/` | {_description(folder)} |" for folder in sorted(_folders())]
    return "\n".join(["", "| folder | contents |", "| --- | --- |", *rows, "", ""])


def page() -> str:
    """`CONTRIBUTING.md` with the table of the tree as it is now."""
    text = PAGE.read_text(encoding="utf-8")
    if not TABLE.search(text):
        raise ValueError(f"{PAGE.name}: the marks around the table of folders are gone.")
    return TABLE.sub(lambda _: layout(), text)


def _folders() -> Iterator[str]:
    """Folders with a description of their own, and all others with Python files in them."""
    yield from OTHER_FOLDERS
    for parent, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if not _is_generated(Path(parent, name))]
        folder = Path(parent).relative_to(ROOT).as_posix()
        if any(name.endswith(".py") for name in files) and folder not in OTHER_FOLDERS:
            yield folder


def _is_generated(path: Path) -> bool:
    name = path.name
    made = name.startswith(".") or name in ("__pycache__", "build", "dist", "tests") or name.endswith(".egg-info")
    return made or (path / "pyvenv.cfg").exists()


def _description(folder: str) -> str:
    if folder in OTHER_FOLDERS:
        return OTHER_FOLDERS[folder]
    package = ROOT / folder / "__init__.py"
    docstring = ast.get_docstring(ast.parse(package.read_text(encoding="utf-8"))) if package.exists() else None
    if not docstring:
        raise ValueError(f"{folder}/: describe it in the docstring of its __init__.py, or in {Path(__file__).name}.")
    return docstring.splitlines()[0]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
