"""The wheel: all of our packages, and a command that works where no checkout is."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from support.paths import REPO

pytestmark = [pytest.mark.process, pytest.mark.slow]

PACKAGES = ("artimuse_actor", "jobs", "schemas")
CHECKOUT_ONLY = "jobs/demo/training/"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build leaves folders beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if name.startswith(PACKAGES) or "/" not in name:
            (folder / "code" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "code" / name).write_bytes((REPO / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", folder, folder / "code"], check=True, timeout=100)
    return next(folder.glob("*.whl"))


def test_every_module_is_in_the_wheel_but_what_trained_the_demo(wheel: Path) -> None:
    files = [path for package in PACKAGES for path in (REPO / package).rglob("*") if path.is_file()]
    names = {path.relative_to(REPO).as_posix() for path in files if "__pycache__" not in path.parts}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == {name for name in names if not name.startswith(CHECKOUT_ONLY)}


def test_the_command_of_an_installed_wheel_answers_from_another_folder(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)  # a checkout in it would count as installed
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    # The packages that ours needs, without the checkout: paths in a .pth file bring no .pth files of their own.
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
        "--quiet",
        wheel,
    ]
    subprocess.run(install, check=True, timeout=100)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [python.with_name("artimuse"), "--help"], cwd=elsewhere, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Score image collections for aesthetics" in done.stdout
    program = "import jobs, jobs.score.run, jobs.report.report, jobs.browse.page as browse\n"
    program += "browse.page('a title'); print(jobs.__file__)"
    done = subprocess.run(
        [python, "-c", program], cwd=elsewhere, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith(str(site))
