"""Prints the reference of the command line, `docs/cli.md`, as `--help` has it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

COMMANDS: Final = (
    *(
        "",
        "score",
        "plan",
        "manifest",
        "status",
        "evaluate",
        "benchmark",
        "curate",
        "query",
        "export",
        "report",
        "browse",
        "compact",
        "merge",
        "image",
        "serve",
    ),
    *("verify", "config", "demo"),
)
_HEAD: Final = """# The command line

Made by `make docs` from `--help`; a test compares the two.

Options may stand in [a configuration file](nightly.md#a-configuration-file) instead.

Exit codes: 0 the run is done, even if some images failed (the screen counts them; `artimuse image` ends with 1 then),
1 the run stopped, 2 wrong usage, 130 interrupted, 143 terminated ([explained](nightly.md#exit-codes)).
`artimuse --debug COMMAND …` shows the traceback of an error.
"""


_END: Final = "\f"
_PROGRAM: Final = f"""
import sys
from jobs.__main__ import main
for command in sys.argv[1:]:
    sys.argv = ["artimuse", *filter(None, [command]), "--help"]
    assert main() == 0
    print(end={_END!r})
"""


def reference() -> str:
    """The page, in Markdown."""
    sections = [_HEAD]
    shown = subprocess.run(  # one for all of them
        [sys.executable, "-c", _PROGRAM, *COMMANDS],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "112", "TERM": "dumb"},
    ).stdout.split(_END)
    for command, screen in zip(COMMANDS, shown[:-1], strict=True):
        title = " ".join(["artimuse", *filter(None, [command])])
        text = "\n".join(line.rstrip() for line in screen.strip().splitlines())
        sections.append(f"## `{title}`\n\n```text\n{text}\n```\n")
    return "\n".join(sections)


if __name__ == "__main__":
    print(reference(), end="")
