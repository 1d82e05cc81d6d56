"""A process that runs other code than the driver is refused by name: stale copies, other packages, a second node."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import golden_checkpoint
from photo_library import make_photos
from score_job import run_artimuse

import jobs
from artimuse_actor.errors import RunError
from jobs import code_identity
from jobs.code_identity import CodeIdentity, this_code

pytestmark = pytest.mark.timeout(120)

ROOT = Path(jobs.__file__).parents[1]
PACKAGES = ("artimuse_actor", "jobs", "schemas")
OPTIONS = ("--checkpoint", golden_checkpoint("artimuse"), "--protocol", "artimuse")

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
        shutil.copytree(ROOT / package, folder / "code" / package, ignore=shutil.ignore_patterns("__pycache__", "demo"))
    shutil.copytree(ROOT / "jobs" / "demo", folder / "code" / "jobs" / "demo")
    with (folder / "code" / "jobs" / "score" / "load.py").open("a") as file:
        file.write("# edited\n")
    return environment_of_workers(folder)


def environment_of_workers(folder: Path) -> dict[str, str]:
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(OTHER_CODE)
    (folder / "code").mkdir(exist_ok=True)
    return {"PYTHONPATH": str(folder / "site"), "OTHER_CODE": str(folder / "code")}


def digest_of(folder: Path) -> str:
    program = "from jobs.code_identity import this_code; print(this_code().sources)"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=30)
    return done.stdout.strip()


def refusal(folder: Path, environment: dict[str, str], *options: str | Path) -> str:
    """The one line that a run ends with."""
    make_photos(folder / "photos", 12)
    done = run_artimuse(
        "score", folder / "photos", "--out", folder / "out", *OPTIONS, *options, code=1, environment=environment
    )
    assert not (folder / "out" / "scores").exists()
    assert "run again; what was committed stays." in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "RunError" in line]
    return line


def test_a_worker_with_other_code_and_another_package_that_matters_is_refused_by_name(tmp_path: Path) -> None:
    environment = other_code(tmp_path)
    make_package(tmp_path / "code", "pillow", "99.0.1")
    theirs = digest_of(tmp_path / "code")
    assert theirs != this_code().sources
    assert (
        f"RunError: Node {socket.gethostname()} runs other code than the driver: sources {theirs[:6]} in "
        f"{tmp_path / 'code'} instead of {this_code().sources[:6]}, pillow 99.0.1 instead of {version('pillow')}. "
        "Install the same on all nodes"
    ) in refusal(tmp_path, environment)


def test_a_model_with_another_version_of_a_package_is_refused_by_name(tmp_path: Path) -> None:
    environment = environment_of_workers(tmp_path)
    make_package(tmp_path / "code", "tokenizers", "0.0.1")  # what loads images may have another one
    message = refusal(tmp_path, environment)
    assert f"runs other code than the driver: tokenizers 0.0.1 instead of {version('tokenizers')}. Install" in message


def make_package(folder: Path, name: str, version: str) -> None:
    """As much of an installed package as tells its version."""
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def version(package: str) -> str:
    return dict(this_code().versions)[package]


def test_a_worker_without_our_code_is_refused(tmp_path: Path) -> None:
    environment = environment_of_workers(tmp_path)
    for package in PACKAGES:
        (tmp_path / "code" / package).mkdir()
        (tmp_path / "code" / package / "__init__.py").write_text("")
    message = refusal(tmp_path, environment)
    assert "does not have this code, but an older one or none: ModuleNotFoundError: No module named 'jobs" in message


def test_the_identity_depends_on_every_python_file_and_on_nothing_else(tmp_path: Path) -> None:
    other_code(tmp_path)
    folder = tmp_path / "code"
    (folder / "jobs" / "score" / "load.py").write_bytes((ROOT / "jobs" / "score" / "load.py").read_bytes())
    assert digest_of(folder) == this_code().sources
    (folder / "jobs" / "notes.txt").write_text("not code")
    (folder / "jobs" / ".ipynb_checkpoints").mkdir()
    (folder / "jobs" / ".ipynb_checkpoints" / "load.py").write_text("not ours")
    assert digest_of(folder) == this_code().sources
    (folder / "schemas" / "new.py").write_text("")
    assert digest_of(folder) != this_code().sources
    (folder / "schemas" / "new.py").rename(folder / "jobs" / "new.py")
    assert digest_of(folder) != this_code().sources


def test_builds_of_one_version_are_the_same_and_patch_levels_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def runs(**versions: str) -> CodeIdentity:
        return CodeIdentity("a" * 64, tuple(sorted((dict(this_code().versions) | versions).items())))

    monkeypatch.setattr(code_identity, "this_code", lambda: runs(torch="2.13.0+cpu"))
    for same in ("2.13.0", "2.13.0+cu128"):
        runs(torch=same).check_scoring()
    runs(torch="2.13.1").check_loading()
    with pytest.raises(RunError, match=r"torch 2\.13\.0\+cpu instead of 2\.13\.1\."):
        runs(torch="2.13.1").check_scoring()
    with pytest.raises(RunError, match=r"pyarrow .* instead of 20\.0\.0, torch 2\.13\.0\+cpu instead of 2\.14\.0\."):
        runs(pyarrow="20.0.0", torch="2.14.0").check_scoring()
    for _ in range(2):  # a refusal is one the second time too
        with pytest.raises(RunError, match="numpy"):
            runs(numpy="2.4.5").check_loading()


def test_the_same_code_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    code = this_code()
    code.check_scoring()
    code.check_loading()
    monkeypatch.setattr(code_identity, "_source_files", None)
    code.check_scoring()
    code.check_loading()
