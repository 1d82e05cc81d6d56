"""Failed starts of actors, their errors, and the loading times of models, written to the store.

If an actor's process dies while it loads its model, Ray restarts it without limit: on a machine with a broken GPU that
never ends. So each start leaves a mark in the store, deleted when the model is loaded. The loading time is written
there too, for the driver to collect, and so is the error of a constructor: actors may run on any node, and of an error
in a constructor Ray delivers only the text of a traceback.
"""

from __future__ import annotations

import json
import secrets
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

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
            RunError: it has started `MAX_STARTS` times, and its process died each time; the message names the nodes.
        """
        marks = [file.path for file in self.place.files(self._folder())]
        if len(marks) >= MAX_STARTS:
            nodes = sorted({str(json.loads(self.place.read(path))["node"]) for path in marks})
            raise RunError(
                f"A model's process died {len(marks)} times while it started, on {', '.join(nodes)}. Look at the GPU "
                "and the free memory there, or leave that machine out. What was committed stays; run again."
            )
        mark = json.dumps({"node": socket.gethostname()}).encode()
        self.place.write(f"{self._folder()}/{len(marks)}.json", mark)

    def end(self, fetch_s: float, load_s: float, about: Mapping[str, Any]) -> None:
        """Note that this actor's model is loaded, the seconds of fetching and loading it, and what it runs on."""
        times = {"node": socket.gethostname(), "fetch_s": round(fetch_s, 3), "load_s": round(load_s, 3)}
        self.place.write(f"{self._loads}/{secrets.token_hex(8)}.json", json.dumps({**times, **about}).encode())
        self.place.delete_tree(self._folder())

    def fail(self, error: ArtiMuseError) -> None:
        """Note the error that kept an actor from starting; only the last such error is stored."""
        failure = {"type": type(error).__name__, "message": error.message}
        self.place.write(self._failure, json.dumps(failure).encode())

    def failure(self) -> ArtiMuseError | None:
        """The error of the last actor that could not start, if there was one."""
        try:
            failure = json.loads(self.place.read(self._failure))
        except FileNotFoundError:
            return None
        error: ArtiMuseError = getattr(errors, failure["type"])(failure["message"])
        return error

    def take_loads(self) -> list[dict[str, Any]]:
        """Loading times of all models, as in `RunRecord.loads`; their files are deleted."""
        loads = [json.loads(self.place.read(file.path)) for file in self.place.files(self._loads)]
        self.place.delete_tree(self._loads)
        return sorted(loads, key=lambda load: str(load["node"]))

    @property
    def _failure(self) -> str:
        return failure_path(self.run_id)

    @property
    def _loads(self) -> str:
        return loads_folder(self.run_id)

    def _folder(self) -> str:
        ray = sys.modules.get("ray")
        # The same for all starts of an actor that Ray restarts; a run in one process has no Ray, and one start.
        actor = ray.get_runtime_context().get_actor_id() if ray and ray.is_initialized() else "driver"
        return starts_folder(self.run_id, str(actor))
