"""The command `artimuse config`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from artimuse_actor.errors import UsageError
from jobs.commands.config_file import FILE_NAME, Configuration, configurable, key_of
from jobs.commands.options import AsJson
from jobs.words import show


def config(
    context: typer.Context,
    commands: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[COMMAND…]",
            help="Show all options of these commands. [default: what the file sets]",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the options in force and where each comes from, as TOML that can be a configuration file.

    The file is artimuse.toml in the current folder, or --config before the command; --profile chooses among its
    profiles. A table for each command has its options by their names; profiles are tables such as
    [profile.quick.score]. The command line overrides a profile, a profile the file, the file the built-in defaults.
    """
    group: Any = context.parent
    configuration: Configuration = group.obj
    for name in commands or ():
        if name not in group.command.commands:
            raise UsageError(f"There is no command {name!r}. There is {', '.join(group.command.commands)}.")
    found = {
        name: _in_force(group.command.commands[name], group, configuration, all_of_them=bool(commands))
        for name in commands or configuration.settings
    }
    if as_json:
        print(json.dumps(found))
        return
    if configuration.path is None:
        show(f"# There is no {FILE_NAME} in this folder: every option has its default.")
    for name, options in found.items():
        show(f"[{name}]")
        lines = {key: _line(key, option["value"]) for key, option in options.items()}
        width = max(map(len, lines.values()), default=0)
        for key, option in options.items():
            show(f"{lines[key]:<{width}}  # {option['from']}")


def _in_force(command: Any, group: Any, configuration: Configuration, *, all_of_them: bool) -> dict[str, Any]:
    """Key → value and origin of a command's options: all, or those of the file."""
    settings = configuration.settings.get(command.name, {})
    context = command.make_context(command.name, [], parent=group, resilient_parsing=True)
    return {
        key_of(parameter): {
            "value": _plain(context.params[parameter.name]),
            "from": settings[parameter.name].origin if parameter.name in settings else "default",
        }
        for parameter in configurable(command)
        if all_of_them or parameter.name in settings
    }


def _plain(value: Any) -> Any:
    """A value as TOML and JSON have it."""
    return str(value) if isinstance(value, Path) else value


def _line(key: str, value: Any) -> str:
    """An option in TOML; one without a value as a comment."""
    return f"# {key} =" if value is None else f"{key} = {json.dumps(value, ensure_ascii=False)}"
