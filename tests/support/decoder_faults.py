"""Pictures that kill, hang or starve the process that decodes them.

No such file is known for the libraries of today, so Pillow's JPEG decoder is made to stumble over words behind the end
of a picture. That is done in every Python process with a certain folder on its PYTHONPATH, with real signals and real
waits; the code under test knows nothing of it.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from support.golden import golden_images

FAULTS = (
    "SEGFAULT",
    "ABORT",
    "EXIT",
    "KILLED",
    "HOLD",
    "SLEEP",
    "STOP",
    "HOARD",
    "SEGFAULT ONCE",
    "SLEEP ONCE",
    "PRINT",
)

_SITECUSTOMIZE = '''
import ctypes, importlib.util, os, re, signal, sys, time

HERE = os.path.dirname(__file__)


def stumble(word):
    where = "child" if "artimuse_actor.images.child_decoder" in sys.orig_argv else "task"
    with open(os.path.join(HERE, "stumbles"), "a") as file:
        file.write(f"{word.decode()} in {where}\\n")
    if word.endswith(b" ONCE"):
        try:
            open(os.path.join(HERE, word.decode()), "x").close()
        except FileExistsError:
            return
    if word.startswith(b"SEGFAULT"):
        ctypes.string_at(0)
    elif word == b"ABORT":
        os.abort()
    elif word == b"EXIT":
        os._exit(3)
    elif word == b"KILLED":  # as the kernel does it when memory runs out
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == b"HOLD":  # in C, and keeps the interpreter to itself; no signal handler of Python's comes to its turn
        lock = ctypes.create_string_buffer(64)
        for _ in range(2):  # the second waits for the first
            ctypes.PyDLL(None).pthread_mutex_lock(lock)
    elif word.startswith(b"SLEEP"):  # leaves the interpreter to others
        time.sleep(10_000)
    elif word == b"STOP":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif word == b"HOARD":
        hoard = []
        while True:
            hoard.append(bytearray(1 << 24))
    elif word == b"PRINT":
        os.write(1, b"libdecoder: warning" * 100)


def break_jpeg(module):
    load_prepare = module.JpegImageFile.load_prepare

    def stumbling(self):
        found = re.search(b"<<(.*)>>$", self.fp.getvalue()[-64:])
        if found:
            stumble(found[1])
        load_prepare(self)

    module.JpegImageFile.load_prepare = stumbling


def count_loads(module):
    load_network = module.load_network

    def counting(*arguments, **options):
        with open(os.path.join(HERE, "loads"), "a") as file:
            file.write(f"{os.getpid()}\\n")
        return load_network(*arguments, **options)

    module.load_network = counting


class Finder:
    """Runs a function on a module as soon as it is imported."""

    wanted = {"PIL.JpegImagePlugin": break_jpeg, "artimuse_actor.engine.weights": count_loads}

    def find_spec(self, name, path=None, target=None):
        change = self.wanted.pop(name, None)
        if change is None:
            return None
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
'''


def make_fault_folder(folder: Path) -> dict[str, str]:
    """Make the folder; returns the environment for processes in which pictures of `faulty` do what they say."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


def faulty(fault: str) -> bytes:
    """A picture that does this to its decoder; an ordinary one in processes without `make_fault_folder`."""
    assert fault in FAULTS
    return golden_images()[0].read_bytes() + f"<<{fault}>>".encode()


def stumbles(folder: Path) -> Counter[str]:
    """Number of times each fault was met, as in `HOLD in child` and `HOLD in task`."""
    return Counter((folder / "stumbles").read_text().splitlines())


def model_loads(folder: Path) -> int:
    """Number of checkpoints loaded below the environment of a folder."""
    return len((folder / "loads").read_text().split())
