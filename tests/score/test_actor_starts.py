"""What is done about models whose processes die while they start, by the marks that they leave."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from artimuse_actor.errors import RunError
from jobs.score import actor_starts
from jobs.score.actor_starts import StartLog
from jobs.storage.places import open_place

ActorOn = Callable[[str, str], StartLog]


@pytest.fixture
def actor_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ActorOn:
    """What an actor on a node has of the same run."""

    def of(actor: str, node: str) -> StartLog:
        monkeypatch.setattr(actor_starts, "_actor_id", lambda: actor)
        monkeypatch.setattr(socket, "gethostname", lambda: node)
        return StartLog(open_place(str(tmp_path)), "run")

    return of


def test_an_actor_that_died_three_times_is_given_up_and_so_is_whatever_replaces_it_on_that_node(
    actor_on: ActorOn,
) -> None:
    for _ in range(3):
        actor_on("a", "gpu/1").begin()
    for actor in "ab":
        with pytest.raises(RunError, match=r"^A model's process died 3 times while it started, on gpu/1\. Look at"):
            actor_on(actor, "gpu/1").begin()
    actor_on("b", "gpu-2").begin()


def test_who_died_on_several_nodes_is_given_up_and_no_node_is(actor_on: ActorOn) -> None:
    for node in ("gpu-1", "gpu-2", "gpu-1"):
        actor_on("a", node).begin()
    with pytest.raises(RunError, match="on gpu-1, gpu-2"):
        actor_on("a", "gpu-3").begin()
    for node in ("gpu-1", "gpu-2"):
        actor_on("b", node).begin()


def test_a_model_that_is_loaded_there_shows_that_the_node_works(actor_on: ActorOn) -> None:
    actor_on("early", "gpu-1").begin()
    actor_on("c", "gpu-2").begin()
    for _ in range(3):
        actor_on("a", "gpu-1").begin()
    actor_on("c", "gpu-2").end(0.1, 2.0, {})  # on another node
    with pytest.raises(RunError):
        actor_on("b", "gpu-1").begin()
    actor_on("early", "gpu-1").end(0.1, 3.0, {"device": "cuda"})
    for actor in ("a", "b", "early"):
        actor_on(actor, "gpu-1").begin()
    assert [load["node"] for load in actor_on("driver", "head").take_loads()] == ["gpu-1", "gpu-2"]
