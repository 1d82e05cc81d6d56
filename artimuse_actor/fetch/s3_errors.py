"""The answer of an S3 server, recovered from the exceptions that s3fs turns it into."""

from __future__ import annotations

from typing import Any


def s3_answer(error: BaseException | None) -> dict[str, Any] | None:
    """The server's answer as botocore parsed it, with `Error` and `ResponseMetadata`; None if there was none."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict) and "Error" in response:
            return response
        error = error.__cause__
    return None


def s3_error_code(error: BaseException | None) -> str | None:
    """The server's own name of an S3 error, such as `InvalidRange`."""
    answer = s3_answer(error)
    return None if answer is None else str(answer["Error"].get("Code"))
