"""The command that retries failed rows, rebuilt from the record of the last run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from artimuse_actor.uris import without_secrets
from jobs.report.safe_text import shell_word

_LEFT_OUT: Final = ("source", "out", "retry_errors", "prune", "prune_max", "dry_run", "moved", "questions", "as_json")

_MENDABLE: Final = frozenset(
    (
        *("missing", "forbidden", "fetch_failed", "changed", "outside_root", "forbidden_host", "too_large"),
        *("decoder_crashed", "decoder_memory", "decoder_timeout", "unsupported_format", "bad_row"),
    )
)
"""Types of errors that another try may mend: later, with other options, with a version that reads more formats, or with
a mended manifest."""


@dataclass(frozen=True)
class ScoreOption:
    """One option of `artimuse score`.

    Attributes:
        name: as `run.json` has it.
        flag: as one types it.
        default: value that need not be typed.
    """

    name: str
    flag: str
    default: Any


def score_options(command: Any) -> tuple[ScoreOption, ...]:
    """The options of a command of typer's that are worth repeating."""
    return tuple(
        ScoreOption(option.name, option.opts[-1], option.default)
        for option in command.params
        if option.param_type_name == "option" and option.name not in _LEFT_OUT and option.name != "help"
    )


def retry_command(
    arguments: Mapping[str, Any], options: Sequence[ScoreOption], out: str, checkpoint: str, error_type: str | None
) -> str | None:
    """The command that retries the rows of one error type; None if no retry mends it, or the source is unknown.

    Args:
        arguments: of the last run.
        options: of `artimuse score`.
        out: the store.
        checkpoint: of its scores, for a run that does not say.
        error_type: which rows; None for all that may succeed now.
    """
    if "source" not in arguments or (error_type is not None and error_type not in _MENDABLE):
        return None
    words = ["artimuse", "score", _word(arguments["source"]), "--out", _word(out)]
    given = {"checkpoint": checkpoint, **arguments}
    for option in options:
        value = given.get(option.name)
        if value is None or value == option.default:
            continue
        words.append(option.flag)
        if not isinstance(value, bool):
            words.append(_word(value))
    words += ["--retry-errors", error_type or "all"]
    return " ".join(words)


def _word(value: Any) -> str:
    return shell_word(without_secrets(str(value)))
