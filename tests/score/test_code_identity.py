"""A process that runs other code than the driver is refused by name: stale copies, other packages, a second node."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from support.golden import golden_checkpoint
from support.other_code import PACKAGES, digest_of, environment_of_workers, other_code
from support.paths import REPO
from support.photo_library import make_photos
from support.score_job import run_command

from artimuse_actor.errors import RunError
from jobs import code_identity
from jobs.code_identity import CodeIdentity, this_code, this_commit

pytestmark = pytest.mark.timeout(120)

OPTIONS = ("--checkpoint", golden_checkpoint("artimuse"), "--protocol", "artimuse")


def refusal(folder: Path, environment: dict[str, str]) -> str:
    """The one line that a run ends with."""
    make_photos(folder / "photos", 12)
    done = run_command(
        "score", folder / "photos", "--out", folder / "out", *OPTIONS, "--ray", code=1, environment=environment
    )
    assert not (folder / "out" / "scores").exists()
    assert "run again; what was committed stays." in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "RunError" in line]
    return line


@pytest.mark.process
@pytest.mark.ray
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


@pytest.mark.process
@pytest.mark.ray
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


@pytest.mark.process
@pytest.mark.ray
def test_a_worker_without_our_code_is_refused(tmp_path: Path) -> None:
    environment = environment_of_workers(tmp_path)
    for package in PACKAGES:
        (tmp_path / "code" / package).mkdir()
        (tmp_path / "code" / package / "__init__.py").write_text("")
    message = refusal(tmp_path, environment)
    assert "does not have this code, but an older one or none: ModuleNotFoundError: No module named 'jobs" in message


@pytest.mark.process
def test_the_identity_depends_on_every_python_file_and_on_nothing_else(tmp_path: Path) -> None:
    other_code(tmp_path)
    folder = tmp_path / "code"
    (folder / "jobs" / "score" / "load.py").write_bytes((REPO / "jobs" / "score" / "load.py").read_bytes())
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


def test_the_commit_is_read_from_gits_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_identity, "_folder_of", lambda _: tmp_path / "jobs")
    assert this_commit() is None
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert this_commit() is None
    (git / "packed-refs").write_text("# pack-refs with: peeled\n" + f"{'1' * 40} refs/heads/main\n")
    assert this_commit() == "1" * 40
    (git / "refs" / "heads" / "main").write_text("2" * 40 + "\n")
    assert this_commit() == "2" * 40
    (git / "HEAD").write_text("3" * 40 + "\n")
    assert this_commit() == "3" * 40
