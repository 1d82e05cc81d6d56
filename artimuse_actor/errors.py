"""Every error this project raises on purpose, in one tree.

Two branches: an `ImageError` belongs to one picture and becomes a row of the scores table; all others stop the run,
on one screen and without a traceback. Each message says what happened, where, and what to do next.
"""

from __future__ import annotations

from typing import Literal, get_args

ImageErrorType = Literal[
    "bad_row",
    "missing",
    "forbidden",
    "not_a_file",
    "unsupported_uri",
    "outside_root",
    "forbidden_host",
    "fetch_failed",
    "changed",
    "empty",
    "too_large",
    "not_an_image",
    "unsupported_format",
    "truncated",
    "corrupt",
    "decoder_crashed",
    "decoder_memory",
    "decoder_timeout",
]
IMAGE_ERROR_TYPES: tuple[str, ...] = get_args(ImageErrorType)


def one_line(text: str) -> str:
    """A server's or library's message as part of our own sentence: printable, short, without a full stop.

    An answer may hold anything, and lone surrogates or escape codes must reach neither a table nor a terminal.
    """
    printable = "".join(character if character.isprintable() else " " for character in text[:1000])
    return " ".join(printable.split())[:300].rstrip(". ")


def message_of(error: BaseException) -> str:
    """The message of some library's exception as a part of a sentence; its type if it has none."""
    return one_line(str(error)) or type(error).__name__


def reason_of(error: BaseException) -> str:
    """A library's exception as the beginning of a sentence: its type and message."""
    return f"{type(error).__name__}: {one_line(str(error))}".removesuffix(": ")


class ArtiMuseError(Exception):
    """The root of the tree; `exit_code` is the exit code of the command line.

    Attributes:
        message: what happened, where, what next.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        """Say the sentence."""
        super().__init__(message)
        self.message = message

    # Not from `args`: Ray Data 2.60 appends advice of its own there (`iterate_with_retry` in data/_internal/util.py).
    def __str__(self) -> str:
        return self.message


class UsageError(ArtiMuseError):
    """An invalid argument or combination of arguments."""

    exit_code = 2


class CheckpointError(ArtiMuseError):
    """A checkpoint that is not there, not whole, or not of the published format."""


class ManifestError(ArtiMuseError):
    """A source of images that cannot be read as a manifest."""


class GroundTruthError(ArtiMuseError):
    """Ground truth that cannot be read, or that does not go with the scores."""


class GateFailed(ArtiMuseError):  # noqa: N818 (what happened reads better than "error")
    """A metric that misses its `--gate`."""


class StoreError(ArtiMuseError):
    """An output folder that cannot be read or written."""


class StoreMismatch(StoreError):  # noqa: N818 (what happened reads better than "error")
    """An output folder that holds scores of another checkpoint, protocol or preprocessing."""


class BrokenFile(StoreError):  # noqa: N818
    """A file of our own that is not whole."""


class GoneFile(StoreError, FileNotFoundError):  # noqa: N818
    """A file of our own that was listed, and is not there."""


class StoreLocked(StoreError):  # noqa: N818
    """An output folder that another run is writing to."""


class CurationError(ArtiMuseError):
    """A selection that is empty, or an output path that holds something else."""


class ExportError(ArtiMuseError):
    """An export whose output path holds something else, or whose rows do not fit its form."""


class RunError(ArtiMuseError):
    """A run that had to stop although its arguments were right."""


class RequestRefused(ArtiMuseError):  # noqa: N818
    """A request over HTTP that gets no scores.

    Attributes:
        status: of the answer.
        error_type: a short name for programs.
        retry_after_s: when the same request may succeed; None if it will not.
    """

    def __init__(self, status: int, error_type: str, message: str, retry_after_s: int | None = None) -> None:
        """Name the type, say the sentence."""
        super().__init__(message)
        self.status, self.error_type, self.retry_after_s = status, error_type, retry_after_s


class NoNumber(RunError):  # noqa: N818
    """A model's answer is NaN or infinite."""


class ImageError(ArtiMuseError):
    """One image that has no score, with the reason.

    Attributes:
        error_type: one of `IMAGE_ERROR_TYPES`.
        message: one sentence that names what is wrong and what would help.
        retryable: whether the same image may succeed later without being changed.
        by_settings: whether it would with what the end of the message names: an option or a package.
    """

    def __init__(
        self, error_type: ImageErrorType, message: str, *, retryable: bool = False, by_settings: bool = False
    ) -> None:
        """Name the type, say the sentence."""
        super().__init__(message)
        self.error_type = error_type
        self.retryable = retryable
        self.by_settings = by_settings

    # Ray pickles exceptions, and the default rebuilds them from `args` alone: one argument where two are needed.
    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_image_error, (self.error_type, self.message, self.retryable, self.by_settings))


def _rebuild_image_error(error_type: ImageErrorType, message: str, retryable: bool, by_settings: bool) -> ImageError:
    return ImageError(error_type, message, retryable=retryable, by_settings=by_settings)


def file_too_large(size_bytes: int, max_bytes: int) -> ImageError:
    """The error of a file above the limit, for all who read one."""
    return ImageError(
        "too_large",
        f"The file has {size_bytes:,} bytes, the limit is {max_bytes:,}. Raise it with --max-bytes.",
        by_settings=True,
    )
