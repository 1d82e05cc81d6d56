"""The machine of a measurement: one line for the top of each table."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]


def machine_line(*packages: str) -> str:
    """Processor, memory, Python, the versions of these packages, and the commit."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    hardware = f"{_processor()}, {os.cpu_count()} cores, {gib:.0f} GiB"
    software = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)]
    return f"{hardware}; {', '.join(software)}, commit {commit()}; load {os.getloadavg()[0]:.1f}"


def commit() -> str:
    """Commit of the checkout; `unknown` outside one."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return described.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
