"""How often an actor has been started in vain, why it could not start, and how long it took to load its model.

Ray starts an actor whose process died while it loaded its model again and again, for ever: on a machine with a broken
GPU that never ends. So each start leaves a mark in the store, taken away when the model is loaded. How long that took
is left there too, for the driver to collect, and so is the error of a constructor: actors may be anywhere, and Ray
hands on nothing of their constructors but the text of a traceback.
"""

from __future__ import annotations

import json
import secrets
import socket
from dataclasses import dataclass
from typing import Any, Final

from artimuse_actor import errors
from artimuse_actor.errors import ArtiMuseError, RunError
from jobs.storage.place import Place
from jobs.store.layout import failure_path, loads_folder, starts_folder

MAX_STARTS: Final = 3


@dataclass(frozen=True)
class StartLog:
    """Marks of the starts of one run's actors.

    Attributes:
        place: of the store.
        run_id: of the run.
    """

    place: Place
    run_id: str

    def begin(self) -> None:
        """Note that this actor starts.

        Raises:
            RunError: it did so several times already, and its process died each time; names the nodes.
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

    def end(self, fetch_s: float, load_s: float) -> None:
        """Note that its model is loaded, and how long that took."""
        times = {"node": socket.gethostname(), "fetch_s": round(fetch_s, 3), "load_s": round(load_s, 3)}
        self.place.write(f"{self._loads}/{secrets.token_hex(8)}.json", json.dumps(times).encode())
        self.place.delete_tree(self._folder())

    def fail(self, error: ArtiMuseError) -> None:
        """Note why an actor could not start; only the last such error is kept."""
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
        """The times of all models that were loaded, as `RunRecord.loads` has them; they are no longer kept apart."""
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
        import ray

        # The same for all starts of an actor that Ray restarts.
        return starts_folder(self.run_id, str(ray.get_runtime_context().get_actor_id()))
