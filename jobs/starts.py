"""How often an actor has been started in vain.

Ray starts an actor whose process died while it loaded its model again and again, for ever: on a machine with a broken
GPU that never ends. So each start leaves a mark in the store, taken away when the model is loaded.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Final

from artimuse_actor.errors import RunError
from jobs.storage import Place

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

    def end(self) -> None:
        """Note that its model is loaded."""
        self.place.delete_tree(self._folder())

    def _folder(self) -> str:
        import ray

        # The same for all starts of an actor that Ray restarts.
        return f"_runs/{self.run_id}/starts/{ray.get_runtime_context().get_actor_id()}"
