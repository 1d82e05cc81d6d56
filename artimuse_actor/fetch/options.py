"""Options of fetching: the files allowed, size limits, attempts and timeouts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from artimuse_actor.errors import ImageErrorType, UsageError
from artimuse_actor.fetch.confinement import normal_root


@dataclass(frozen=True)
class FetchOptions:
    """Options for fetching image files; picklable, so that tasks anywhere can use them.

    Attributes:
        max_bytes: size of the largest file that is read.
        root: the local folder or s3:// prefix that every image must lie in; None allows all.
        allow_private_hosts: whether http(s) may reach loopback, private and other addresses that are not public, and
            use the proxies of the environment, behind which no address can be checked.
        attempts: how often a file is tried before it is given up.
        first_wait_s: the longest wait before the second attempt; each further one may be twice as long.
        longest_wait_s: the longest wait before any attempt, also if the server asks for more.
        connect_timeout_s: for a connection to be made.
        read_timeout_s: for the next bytes to arrive.
        min_bytes_per_s: of a body that takes longer than `read_timeout_s`; a slower one is given up.
        total_timeout_s: for all attempts at one file and the waits between them.
        held_bytes: most bytes of files fetched and not used yet; the file that is used next may be larger.
    """

    max_bytes: int = 512 * 1024 * 1024
    root: str | None = None
    allow_private_hosts: bool = False
    attempts: int = 6
    first_wait_s: float = 0.5
    longest_wait_s: float = 60.0
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    min_bytes_per_s: float = 4096.0
    total_timeout_s: float = 600.0
    held_bytes: int = 256 * 1024 * 1024

    @property
    def never_fails_by(self) -> tuple[ImageErrorType, ...]:
        """Types of errors that no image has with these options, since the check is left out."""
        without_root: tuple[ImageErrorType, ...] = () if self.root is not None else ("outside_root",)
        return (*without_root, "forbidden_host") if self.allow_private_hosts else without_root

    def for_people(self) -> FetchOptions:
        """The same for people who wait: a host that does not answer is not asked for ten minutes."""
        return replace(self, attempts=2, total_timeout_s=30.0, connect_timeout_s=5.0)

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.attempts < 1:
            raise UsageError("--max-bytes and the number of attempts are whole numbers from 1.")
        if self.root is not None:
            object.__setattr__(self, "root", normal_root(self.root))  # relative to here, not to where a task runs
