"""A store served for a browser in a thread of this process, and a client that asks as its page does."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from artimuse_actor.fetch.options import FetchOptions
from jobs.browse.marks import Marks
from jobs.browse.pictures import Pictures
from jobs.browse.server import TOKEN_HEADER, Server
from jobs.browse.site import Site


class Client:
    """Requests to a server; each has a connection of its own."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.port: int = server.server_address[1]
        self.token = server.token
        self.edition = self.get("about")["edition"]

    def send(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def fetch(self, name: str, **asked: Any) -> tuple[int, bytes]:
        """Status and body of an answer to the page."""
        edition = getattr(self, "edition", 0)
        status, _, body = self.send("GET", f"/{self.token}/{name}?{urlencode({'edition': edition, **asked})}")
        return status, body

    def get(self, name: str, **asked: Any) -> Any:
        """The answer to a question that must be right."""
        status, body = self.fetch(name, **asked)
        assert status == 200, body
        return json.loads(body)

    def post(self, name: str, *, code: int = 200, **asked: Any) -> Any:
        """The answer to a request that changes something."""
        headers = {"Content-Type": "application/json", TOKEN_HEADER: self.token}
        body = json.dumps({"edition": self.edition, **asked}).encode()
        status, _, answer = self.send("POST", f"/{self.token}/{name}", headers, body)
        assert status == code, answer
        return json.loads(answer)

    def ids(self, **asked: Any) -> list[str]:
        """Ids of the rows of a search, in its order."""
        return [row["id"] for row in self.get("rows", **{"from": 0, "count": 500, **asked})["rows"]]

    def number(self, image_id: str) -> int:
        """The number of a row."""
        rows = self.get("rows", **{"from": 0, "count": 500})["rows"]
        return int(next(row["number"] for row in rows if row["id"] == image_id))

    def mark(self, *ids: str, marked: bool = True) -> None:
        """Mark pictures."""
        for image_id in ids:
            self.post("mark", number=self.number(image_id), marked=marked)


@contextmanager
def browsing(store: Path | str, *, marks: Path | None = None, root: Path | None = None) -> Iterator[Client]:
    """Serve a store while the block lasts."""
    fetching = FetchOptions(root=str(root) if root else None).for_people()
    with Pictures(fetching) as pictures:
        site = Site(str(store), Marks(str(marks) if marks else None), pictures, fetching.root)
        with Server(0, site.pages()) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield Client(server)
            finally:
                server.shutdown()
                thread.join()
                site.close()
