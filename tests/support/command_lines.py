"""Command lines as docs and manifests print them, and the program's own parser to hold them against."""

from __future__ import annotations

import contextlib
import re
import shlex
from typing import Any

import typer

from jobs.__main__ import app

COMMANDS: Any = typer.main.get_command(app)


def commands_in(text: str) -> list[str]:
    """Every `artimuse` command of a page, without the comment behind it."""
    found = re.findall(r"^(?:\$ |\s+)(?:\.venv/bin/)?(artimuse .*)$", text, re.MULTILINE)
    return [line.split(" #")[0].strip() for line in found]


def parse_command(line: str) -> dict[str, Any]:
    """Parse a command as the program would, without running it; raises what a user would see, returns its options."""
    words = shlex.split(line)[1:]
    context: Any = COMMANDS.make_context("artimuse", words, resilient_parsing=True)
    words = [*context._protected_args, *context.args]  # behind the options before the command
    with contextlib.suppress(typer.Exit):  # of an option that answers at once, such as --questions
        return dict(COMMANDS.commands[words[0]].make_context(words[0], words[1:], parent=context).params)
    return {}
