"""Errors of tasks and actors, as a run raises them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from artimuse_actor.errors import ArtiMuseError, ImageError, RunError, one_line, reason_of
from jobs.score import ray_internals
from jobs.score.actor_starts import StartLog

if TYPE_CHECKING:
    from ray.exceptions import RayError


@contextmanager
def own_errors(starts: StartLog) -> Iterator[None]:
    """Turn Ray's error about a task or an actor back into our own exception, or into a RunError.

    Args:
        starts: has the errors of actors that could not start.
    """
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise _own_error(error, starts) from error


def _own_error(error: RayError, starts: StartLog) -> ArtiMuseError:
    from ray.exceptions import RayActorError, RaySystemError

    node = ray_internals.node_of(error)
    where = f" at {node}" if node else ""
    cause = getattr(error, "cause", error)  # only errors of tasks have one; those of constructors are only text
    if isinstance(cause, ArtiMuseError) and not isinstance(cause, ImageError):  # an ImageError becomes a row
        return cause
    if isinstance(error, RayActorError) and error.actor_init_failed:
        last = str(error).strip().splitlines()[-1]
        return starts.failure() or RunError(
            f"A model{where} could not be started: {last}. Install the same code on all nodes, or leave that "
            "one out, and run again; what was committed stays."
        )
    if isinstance(cause, RaySystemError) and isinstance(cause.client_exc, ImportError | AttributeError):
        # Its process could not unpickle the step, so it never compared its code, see `code_identity`.
        return RunError(
            f"A node{where} does not have this code, but an older one or none: {reason_of(cause.client_exc)}. "
            "Install the same on all nodes, or leave that one out, and run again; what was committed stays."
        )
    return task_failure(cause)


def task_failure(cause: BaseException) -> RunError:
    """The error of a run one of whose steps raised what is not ours, such as OSError of a full disk."""
    first = str(cause).partition("\n")[0]  # Ray Data appends advice of its own
    said = f"{type(cause).__name__}: {one_line(first)}"
    return RunError(f"A task of the run failed: {said}. What was committed stays; run again.")
