from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from support.ray_head import joined_once, ray_address

from artimuse_actor.errors import ArtiMuseError, ImageError, RunError, StoreError
from jobs.score.actor_starts import StartLog
from jobs.score.ray_session import running_ray
from jobs.score.task_errors import own_errors
from jobs.storage.places import open_place

# Ray itself sets what it says is deprecated.
pytestmark = [pytest.mark.ray, pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    with joined_once(), running_ray(ray_address(), 1):
        yield


def error_of(step: type | Callable[[pa.Table], pa.Table], starts: StartLog) -> ArtiMuseError:
    """The error that a run with this step ends with."""
    import ray.data

    compute = ray.data.ActorPoolStrategy(size=1) if isinstance(step, type) else None
    rows = ray.data.from_items([{"x": 1}]).map_batches(step, batch_format="pyarrow", compute=compute, num_cpus=0.1)
    with pytest.raises(ArtiMuseError) as found, own_errors(starts):
        list(rows.iter_rows())
    return found.value


@pytest.fixture
def starts(tmp_path: Path) -> StartLog:
    return StartLog(open_place(str(tmp_path)), "run")


def raises(error: Exception) -> Callable[[pa.Table], pa.Table]:
    def step(_: pa.Table) -> pa.Table:
        raise error

    return step


def test_what_ray_said_while_it_could_not_start_is_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def fails(**_: object) -> None:
        os.write(2, b"raylet: cannot bind\nport 6379\n")
        raise ConnectionError("no head")

    monkeypatch.setattr(ray, "init", fails)
    says = "Ray at this machine cannot be used: no head raylet: cannot bind port 6379"
    with pytest.raises(RunError, match=says), running_ray(None, 1):
        pass


@pytest.mark.usefixtures("_ray")
def test_an_error_of_a_task_arrives_as_it_was_raised(starts: StartLog) -> None:
    found = error_of(raises(StoreError("photos/out: is not whole.\n  Delete it.")), starts)
    assert type(found) is StoreError
    assert str(found) == found.message == "photos/out: is not whole.\n  Delete it."


@pytest.mark.usefixtures("_ray")
@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("what nobody\nforesaw."), "ValueError: what nobody"),
        (ImageError("corrupt", "a.jpg: cannot be decoded."), "ImageError: a.jpg: cannot be decoded"),
    ],
)
def test_an_error_that_should_not_have_come_this_far_is_named_in_one_line(
    error: Exception, says: str, starts: StartLog
) -> None:
    found = error_of(raises(error), starts)
    assert type(found) is RunError
    assert str(found) == f"A task of the run failed: {says}. What was committed stays; run again."


@pytest.mark.usefixtures("_ray")
def test_a_constructors_error_is_the_one_that_it_left_in_the_store_else_the_end_of_rays_text(starts: StartLog) -> None:
    class NeverStarts:
        def __init__(self) -> None:
            raise StoreError("the disk is full")

        def __call__(self, rows: pa.Table) -> pa.Table:
            return rows

    found = error_of(NeverStarts, starts)
    assert type(found) is RunError
    assert "could not be started: artimuse_actor.errors.StoreError: the disk is full. Install the same" in str(found)
    starts.fail(StoreError("out: No space left on device"))
    found = error_of(NeverStarts, starts)
    assert (type(found), str(found)) == (StoreError, "out: No space left on device")
