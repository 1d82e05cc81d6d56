"""The settings of a server, and its token."""

from __future__ import annotations

import ipaddress
import math
import os
import secrets
from dataclasses import dataclass, field
from typing import Final

from artimuse_actor.errors import UsageError
from jobs.score.single_images import ImageSettings

TOKEN_VARIABLE: Final = "ARTIMUSE_SERVE_TOKEN"
_SHORTEST_TOKEN: Final = 16


@dataclass(frozen=True)
class Limits:
    """Limits of a server; those of a picture are of `DecodeOptions`.

    Attributes:
        body_bytes: size of the largest body; all bodies at a time have at most `BODIES` times as much.
        queue: pictures that are accepted and not answered yet.
        timeout_s: time of a request, from its first byte to its answer.
        wait_s: how long an idle model waits for more pictures to fill its batch.
    """

    body_bytes: int = 64 * 1024 * 1024
    queue: int = 256
    timeout_s: float = 60.0
    wait_s: float = 0.005

    def __post_init__(self) -> None:
        if self.body_bytes < 1 or self.queue < 1:
            raise UsageError("--max-body and --queue take whole numbers from 1.")
        if not 0 < self.timeout_s < math.inf:
            raise UsageError(f"--timeout takes a number of seconds above 0, not {self.timeout_s}.")
        if not 0 <= self.wait_s < math.inf:
            raise UsageError(f"--wait-ms takes a number of milliseconds from 0, not {self.wait_s * 1000:g}.")


@dataclass(frozen=True)
class ServeSettings:
    """Settings of a server; see the options of `artimuse serve`.

    Attributes:
        model: the model, how pictures are decoded, and the texts that can be asked for; nothing is fetched.
        host: the name or address it listens on.
        port: 0 for any that is free.
        token_file: the file with the token.
        limits: what one client can ask for.
    """

    model: ImageSettings
    host: str = "127.0.0.1"
    port: int = 8000
    token_file: str | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise UsageError(f"--port takes a whole number from 0 to 65535, not {self.port}.")

    def given_token(self) -> str | None:
        """The token of the file or else of the environment; None to make one, which only serves this machine.

        Raises:
            UsageError: it cannot be read, is too short, or there is none although others can connect.
        """
        if self.token_file is not None:
            try:
                with open(self.token_file, encoding="ascii") as file:
                    return _checked(file.read(1024).strip(), self.token_file)
            except (OSError, ValueError) as error:
                raise UsageError(f"--token-file {self.token_file}: cannot be read as ASCII text ({error}).") from error
        if TOKEN_VARIABLE in os.environ:
            return _checked(os.environ[TOKEN_VARIABLE].strip(), TOKEN_VARIABLE)
        if not _is_loopback(self.host):
            raise UsageError(
                f"--host {self.host}: other machines can connect, so they need a token of yours. Put one into "
                f"--token-file or {TOKEN_VARIABLE}."
            )
        return None


def new_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(24)


def _checked(token: str, place: str) -> str:
    if len(token) < _SHORTEST_TOKEN or not all("!" <= mark <= "~" for mark in token):
        raise UsageError(
            f"{place}: a token has at least {_SHORTEST_TOKEN} letters, digits or marks, and no blanks. "
            "`openssl rand -base64 24` makes one."
        )
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
