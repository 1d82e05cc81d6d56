"""`artimuse.toml`: defaults of the commands' options, given to the parser as its `default_map`.

A table a command, with its options by their names on the command line, and its arguments; below `profile.NAME` the same
again, for `--profile NAME`. The command line overrides a profile, a profile the other tables, and these the built-in
defaults. Every table is checked whichever command runs, so that no misspelt option waits for its night.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

import typer

from artimuse_actor.errors import UsageError

FILE_NAME: Final = "artimuse.toml"
_PROFILES: Final = "profile"
_SHOWS: Final = "config"
"""The command that shows the settings has none."""


@dataclass(frozen=True)
class Setting:
    """One value of a file.

    Attributes:
        value: the value, as the parser takes it.
        origin: the file, and the profile if it is of one.
    """

    value: Any
    origin: str


@dataclass(frozen=True)
class Configuration:
    """The settings in force.

    Attributes:
        path: path of the file; None if there is none.
        settings: command → name of a parameter → setting.
    """

    path: str | None = None
    settings: Mapping[str, Mapping[str, Setting]] = field(default_factory=dict)

    def default_map(self) -> dict[str, dict[str, Any]]:
        """The values, as the parser wants them."""
        return {
            command: {name: setting.value for name, setting in settings.items()}
            for command, settings in self.settings.items()
        }

    def explained(self, error: UsageError, command: str, parameters: Iterable[Any]) -> UsageError:
        """The error of a command, with the place in the file of the option that it begins with, if it is set there."""
        names = {f"--{key_of(one)}": one.name for one in parameters}
        setting = self.settings.get(command, {}).get(names.get(str(error).split(" ")[0].rstrip(":"), ""))
        return UsageError(f"{error} It is set in {setting.origin}, [{command}].") if setting else error


def load(path: str | None, profile: str | None, commands: Mapping[str, Any]) -> Configuration:
    """Read the file of the current folder, or another one.

    Args:
        path: the file; None for that of the current folder, if there is one.
        profile: name of the profile to use, if any.
        commands: the parser's commands by name.

    Raises:
        UsageError: it cannot be read, or has a table, an option or a value that does not exist.
    """
    if path is None and os.path.isfile(FILE_NAME):
        path = FILE_NAME
    if path is None:
        if profile is not None:
            raise UsageError(f"--profile {profile}: there is no {FILE_NAME} in this folder. Name the file by --config.")
        return Configuration()
    commands = {name: command for name, command in commands.items() if name != _SHOWS}
    tables = _tables(path)
    profiles = tables.pop(_PROFILES, {})
    if not isinstance(profiles, dict):
        raise UsageError(f"{path}: {_PROFILES} is no table. Profiles are tables such as [{_PROFILES}.quick.score].")
    base = dict(_commands(path, "", tables, commands))
    others = {name: dict(_commands(path, name, tables, commands)) for name, tables in profiles.items()}
    if profile is not None and profile not in others:
        raise UsageError(f"--profile {profile}: {path} has {_named(profile, others) or 'no profiles'}.")
    chosen = others[profile] if profile is not None else {}
    settings = {name: {**base.get(name, {}), **chosen.get(name, {})} for name in base | chosen}
    return Configuration(path, settings)


def key_of(parameter: Any) -> str:
    """The name of an option on the command line, without its hyphens; of an argument that of its parameter."""
    return str(max(parameter.opts, key=len)).lstrip("-")


def configurable(command: Any) -> list[Any]:
    """A command's parameters but those that answer at once, such as --help."""
    return [parameter for parameter in command.params if not parameter.is_eager]


def _tables(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.loads(file.read().decode("utf-8-sig"))  # some editors put a mark before it
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path}: cannot be read as TOML: {reason}.") from error


def _commands(
    path: str, profile: str, tables: Any, commands: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Setting]]]:
    """The settings of each command, of one profile or of the file itself."""
    origin, prefix = (f"{path}, profile {profile}", f"{_PROFILES}.{profile}.") if profile else (path, "")
    if not isinstance(tables, dict):
        raise UsageError(
            f"{path}: {_PROFILES}.{profile} is no table. Write [{_PROFILES}.{profile}.score] and the like."
        )
    for name, values in tables.items():
        if name not in commands:
            raise UsageError(f"{path}: there is no command {prefix}{name}. There is {_named(name, commands)}.")
        if not isinstance(values, dict):
            raise UsageError(f"{path}: {prefix}{name} is no table. Write [{prefix}{name}] above its options.")
        command = commands[name]
        context = command.make_context(name, [], resilient_parsing=True)
        parameters = {key_of(one): one for one in configurable(command)}
        settings = {}
        for key, value in values.items():
            place = f"{path}, [{prefix}{name}]"
            if key not in parameters:
                raise UsageError(f"{place}: there is no option {key!r}. There is {_named(key, parameters)}.")
            parameter = parameters[key]
            settings[parameter.name] = Setting(_checked(f"{place}: {key}", parameter, value, context), origin)
        yield name, settings


def _checked(place: str, parameter: Any, value: Any, context: Any) -> Any:
    """A value as the parser takes it. Raises UsageError if it has the wrong type."""
    is_many = parameter.nargs != 1 or getattr(parameter, "multiple", False)
    values = value if is_many and isinstance(value, list) else [value]
    is_flag = parameter.type_descriptor.annotation is bool
    for one in values:
        if isinstance(one, bool) != is_flag:
            takes = "is true or false" if is_flag else "takes text or a number"
            raise UsageError(f"{place} {takes}, not {str(one).lower() if isinstance(one, bool) else repr(one)}.")
        if not isinstance(one, (str, int, float)):
            raise UsageError(f"{place} takes {'text or numbers' if is_many else 'one value'}; write text in quotes.")
    try:
        parameter.process_value(context, values if is_many else value)
    except typer.BadParameter as error:
        raise UsageError(f"{place}: {error.message}.") from error
    return values if is_many else value


def _named(name: str, known: Iterable[str]) -> str:
    """The names that are meant, perhaps; or all of them."""
    return " or ".join(get_close_matches(name, known, n=2)) or ", ".join(known)
