"""Failed starts of actors, their errors, and the loading times of models, written to the store.

If an actor's process dies while it loads its model, Ray restarts it without limit: on a machine with a broken GPU that
never ends. So each start leaves a mark in the store, deleted when the model is loaded. An actor with `MAX_STARTS` marks
is given up, and so is each that replaces it on that node, at once: Ray Data tries four actors before it ends a run, and
an 8B model takes a minute to load. A model that is loaded there shows that the node works, and all may try again.

The loading time is written there too, for the driver to collect, and so is the error of a constructor: actors may run
on any node, and of an error in a constructor Ray delivers only the text of a traceback.
"""

from __future__ import annotations

import json
import secrets
import socket
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote

from artimuse_actor import errors
from artimuse_actor.errors import ArtiMuseError, RunError
from jobs.storage.place import Place
from jobs.store.layout import failure_path, loads_folder, starts_folder

MAX_STARTS: Final = 3


@dataclass(frozen=True)
class StartLog:
    """The starts of one run's actors, as marks in its store.

    Attributes:
        place: the place of the store.
        run_id: id of the run.
    """

    place: Place
    run_id: str

    def begin(self) -> None:
        """Note that this actor starts.

        Raises:
            RunError: it has started `MAX_STARTS` times, and its process died each time, or another one's did on this
                node; the message names the nodes.
        """
        if nodes := next(iter(self._given_up().values()), None):
            raise RunError(
                f"A model's process died {MAX_STARTS} times while it started, on {', '.join(nodes)}. Look at the GPU "
                "and the free memory there, or leave that machine out. What was committed stays; run again."
            )
        self.place.write(f"{self._folder(_actor_id())}/{_this_node()}/{secrets.token_hex(8)}", b"")

    def end(self, fetch_s: float, load_s: float, about: Mapping[str, Any]) -> None:
        """Note that this actor's model is loaded, the seconds of fetching and loading it, and what it runs on."""
        times = {"node": socket.gethostname(), "fetch_s": round(fetch_s, 3), "load_s": round(load_s, 3)}
        self.place.write(
            f"{loads_folder(self.run_id)}/{secrets.token_hex(8)}.json", json.dumps({**times, **about}).encode()
        )
        for actor in (_actor_id(), *self._given_up()):
            self.place.delete_tree(self._folder(actor))

    def fail(self, error: ArtiMuseError) -> None:
        """Note the error that kept an actor from starting; only the last such error is stored."""
        failure = {"type": type(error).__name__, "message": error.message}
        self.place.write(failure_path(self.run_id), json.dumps(failure).encode())

    def failure(self) -> ArtiMuseError | None:
        """The error of the last actor that could not start, if there was one."""
        try:
            failure = json.loads(self.place.read(failure_path(self.run_id)))
        except FileNotFoundError:
            return None
        error: ArtiMuseError = getattr(errors, failure["type"])(failure["message"])
        return error

    def take_loads(self) -> list[dict[str, Any]]:
        """Loading times of all models, as in `RunRecord.loads`; their files are deleted."""
        folder = loads_folder(self.run_id)
        loads = [json.loads(self.place.read(file.path)) for file in self.place.files(folder)]
        self.place.delete_tree(folder)
        return sorted(loads, key=lambda load: str(load["node"]))

    def _given_up(self) -> dict[str, list[str]]:
        """This actor, and those of this node alone, whose processes died too often, each with the nodes it was on."""
        starts: defaultdict[str, list[str]] = defaultdict(list)
        for mark in self.place.files(starts_folder(self.run_id)):
            actor, node, _ = mark.path.split("/")[-3:]
            starts[actor].append(node)
        mine, here = _actor_id(), {_this_node()}
        return {
            actor: [unquote(node) for node in sorted(set(nodes))]
            for actor, nodes in starts.items()
            if len(nodes) >= MAX_STARTS and (actor == mine or set(nodes) == here)
        }

    def _folder(self, actor: str) -> str:
        return f"{starts_folder(self.run_id)}/{actor}"


def _actor_id() -> str:
    """The same for all starts of an actor that Ray restarts; a run in one process has no Ray, and one start."""
    ray = sys.modules.get("ray")
    return str(ray.get_runtime_context().get_actor_id()) if ray and ray.is_initialized() else "driver"


def _this_node() -> str:
    """Its name, as a part of a path."""
    return quote(socket.gethostname(), safe="")
