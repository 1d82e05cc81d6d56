"""The memory of a process and all its descendants, sampled from /proc, so on Linux alone.

Private pages are added up. Shared ones would be counted once for every process that maps them; what matters of them is
Ray's object store, a file in memory that the raylet holds open and that never shrinks: its size is its peak.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
_FIELDS = re.compile(r"^(PPid|RssAnon):\s+(\d+)", re.MULTILINE)


@dataclass
class Memory:
    """Peaks, in bytes, of a process tree.

    Attributes:
        root: private pages of its first process.
        private: private pages of all processes together.
        shared: files in shared memory, of the process that has most of them open.
        spilled: files below a folder, such as the one Ray spills objects to.
    """

    root: int = 0
    private: int = 0
    shared: int = 0
    spilled: int = 0

    @property
    def total(self) -> int:
        """Private and shared."""
        return self.private + self.shared


@dataclass(frozen=True)
class Finished:
    """A command that came to its end.

    Attributes:
        seconds: wall time.
        peak: its memory.
        output: what it printed.
        samples: (seconds since the start, bytes in use, private and shared) while it ran.
    """

    seconds: float
    peak: Memory
    output: str
    samples: Sequence[tuple[float, int]]


def run_measured(
    command: Sequence[str],
    environment: Mapping[str, str],
    spill_folder: Path | None = None,
    every_s: float = 0.25,
    timeout_s: float = 3600,
    store_pid: int | None = None,
) -> Finished:
    """Run a command and watch the memory of its process tree.

    Args:
        command: with its arguments.
        environment: of the command.
        spill_folder: that Ray spills below.
        every_s: how often memory is looked at.
        timeout_s: after which the command is killed.
        store_pid: whose descendants hold the object store, if Ray was there before the command.

    Raises:
        RuntimeError: it failed; the message is what it said.
    """
    peak, samples, stop = Memory(), [(0.0, 0)], threading.Event()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, env=dict(environment), stdout=output, stderr=errors, text=True)

        def watch() -> None:
            while not stop.wait(every_s):
                in_use = _sample(process.pid, peak, spill_folder, store_pid)
                samples.append((time.perf_counter() - start, in_use))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            process.wait(timeout_s)
        except BaseException:
            process.kill()
            raise
        finally:
            seconds = time.perf_counter() - start
            stop.set()
            watcher.join()
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {errors.read()[-2000:]}")
        return Finished(seconds, peak, output.read(), samples)


def _sample(pid: int, peak: Memory, spill_folder: Path | None, store_pid: int | None) -> int:
    """Raise the peaks by what is in use now, which is returned."""
    tree = _process_tree(pid)
    private = sum(tree.values())
    shared = max(map(_shared_files_bytes, _process_tree(store_pid) if store_pid else tree), default=0)
    peak.root = max(peak.root, tree.get(pid, 0))
    peak.private = max(peak.private, private)
    peak.shared = max(peak.shared, shared)
    if spill_folder:
        peak.spilled = max(peak.spilled, _folder_bytes(spill_folder))
    return private + shared


def _process_tree(pid: int) -> dict[int, int]:
    """Process id → bytes of its private pages, for a process and its descendants."""
    known: dict[int, int] = {}
    children: dict[int, list[int]] = defaultdict(list)
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = {name: int(value) for name, value in _FIELDS.findall(status.read_text())}
        except OSError:  # it ended meanwhile
            continue
        if "RssAnon" in fields:
            number = int(status.parent.name)
            children[fields["PPid"]].append(number)
            known[number] = fields["RssAnon"] * 1024
    tree, waiting = {}, [pid]
    while waiting:
        number = waiting.pop()
        if number in known:
            tree[number] = known[number]
        waiting += children[number]
    return tree


def _shared_files_bytes(pid: int) -> int:
    """Pages of the files in shared memory that a process has open; Ray's has no name any more, so `ls` shows none."""
    files: dict[tuple[int, int], int] = {}
    for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            if os.readlink(descriptor).startswith("/dev/shm/"):
                status = descriptor.stat()
                files[status.st_dev, status.st_ino] = status.st_blocks * 512
        except OSError:  # it was closed meanwhile
            continue
    return sum(files.values())


def _folder_bytes(folder: Path) -> int:
    total = 0
    for file in folder.glob("**/ray_spilled_objects*/**/*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:
            continue
    return total
