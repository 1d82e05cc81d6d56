"""The files for systemd, cron and launchd on the page about nights, each read by the program it is for or its like."""

from __future__ import annotations

import os
import plistlib
import re
import shlex
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
from cronsim import CronSim
from support.command_lines import parse_command
from support.paths import REPO

from jobs.__main__ import INTERRUPTED, TERMINATED
from jobs.commands.score import FAILED_TOO_MANY

PAGE = (REPO / "docs" / "nightly.md").read_text()
PROGRAM = "artimuse-batch/.venv/bin/artimuse"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def _is_a_command(words: list[str]) -> bool:
    assert words[0].endswith(PROGRAM)
    return bool(parse_command(shlex.join(["artimuse", *words[1:]]))["max_time"])


@pytest.mark.process
def test_the_units_are_what_systemd_takes(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    program = tmp_path / PROGRAM
    program.parent.mkdir(parents=True)
    program.touch(0o700)
    units = []
    for text in _blocks("ini"):
        units.append(tmp_path / str(re.findall(r"^# ~/\.config/systemd/user/(\S+)", text)[0]))
        units[-1].write_text(text)
    assert [unit.suffix for unit in units] == [".service", ".timer"]
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    command = ["systemd-analyze", "--user", "verify", "--man=no", *map(str, units)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")  # of an unknown key it only warns
    assert _is_a_command(shlex.split(re.findall(r"^ExecStart=(.*)$", units[0].read_text(), re.MULTILINE)[0]))


def test_the_crontab_is_one_line_that_cron_takes() -> None:
    (line,) = _blocks("crontab")
    minute, hour, day, month, weekday, command = line.rstrip("\n").split(" ", 5)
    night = next(CronSim(" ".join((minute, hour, day, month, weekday)), datetime(2026, 12, 31, 12)))
    assert night == datetime(2027, 1, 1, 1)
    assert "%" not in command  # cron would end the command there
    assert _is_a_command(shlex.split(command))


def test_the_file_for_launchd_is_a_property_list() -> None:
    (text,) = _blocks("xml")
    job = plistlib.loads(text.encode())
    known = {"Label", "ProgramArguments", "StartCalendarInterval", "StandardOutPath", "StandardErrorPath"}
    assert set(job) == {*known, "LowPriorityIO", "Nice"}
    assert job["StartCalendarInterval"] == {"Hour": 1, "Minute": 0}
    assert all(Path(path).is_absolute() for path in (job["ProgramArguments"][0], job["StandardOutPath"]))
    assert _is_a_command(job["ProgramArguments"])


def test_every_exit_code_is_explained() -> None:
    explained = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    assert explained == {0, 1, 2, FAILED_TOO_MANY, INTERRUPTED, TERMINATED, 137}
