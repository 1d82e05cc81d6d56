"""A copy of our code that differs, and processes that run it instead of ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from support.paths import REPO

PACKAGES = ("artimuse_actor", "jobs", "schemas")

# Python runs this when it starts, if it lies on PYTHONPATH; Ray's workers alone get the other code.
OTHER_CODE = """
import importlib.machinery, os, sys

class Other:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ("artimuse_actor", "jobs", "schemas"):
            return importlib.machinery.PathFinder.find_spec(name, [os.environ["OTHER_CODE"]])

if any("default_worker" in word for word in sys.orig_argv):
    # That of an editable install knows every submodule, wherever its package was found.
    sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
    sys.meta_path.insert(0, Other)
    sys.path.insert(0, os.environ["OTHER_CODE"])
"""


def other_code(folder: Path) -> dict[str, str]:
    """A copy of our code with a comment more, and the environment of a node that has it."""
    for package in PACKAGES:
        shutil.copytree(REPO / package, folder / "code" / package, ignore=shutil.ignore_patterns("__pycache__", "demo"))
    shutil.copytree(REPO / "jobs" / "demo", folder / "code" / "jobs" / "demo")
    with (folder / "code" / "jobs" / "score" / "load.py").open("a") as file:
        file.write("# edited\n")
    return environment_of_workers(folder)


def environment_of_workers(folder: Path) -> dict[str, str]:
    """Environment in which Ray's workers look for our code in `folder/code`."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(OTHER_CODE)
    (folder / "code").mkdir(exist_ok=True)
    return {"PYTHONPATH": str(folder / "site"), "OTHER_CODE": str(folder / "code")}


def digest_of(folder: Path) -> str:
    """Digest of the sources that a process started in a folder runs."""
    program = "from jobs.code_identity import this_code; print(this_code().sources)"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=30)
    return done.stdout.strip()
