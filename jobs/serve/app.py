"""The routes of a server.

    POST /score      pictures → scores
    POST /describe   pictures → scores and texts
    GET  /metrics    meters, for Prometheus
    GET  /healthz    200 when the model is loaded; the only route without a token

Not known here: sockets and signals (`server`).
"""

from __future__ import annotations

import asyncio
import hmac
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from time import perf_counter
from typing import Any, Final, TypeAlias

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from artimuse_actor.errors import ArtiMuseError, RequestRefused, reason_of
from jobs.serve.admission import Admission
from jobs.serve.bodies import BodyReader
from jobs.serve.meters import Meters
from jobs.serve.scorer import Scorer
from jobs.serve.settings import Limits
from jobs.words import show

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
HEALTH: Final = "/healthz"
_ROUTES: Final = "There are POST /score, POST /describe, GET /metrics and GET /healthz."
_LOADING_S: Final = 10
_CLIENT_LEFT: Final = 499


class Service:
    """A server's answers.

    Attributes:
        scorer: None while the model is loaded.
        meters: count requests and pictures.
    """

    def __init__(self, token: str, limits: Limits) -> None:
        """Wait for a scorer."""
        self.scorer: Scorer | None = None
        self._ending = False
        self._token, self._limits = token.encode(), limits
        self._admission, self._bodies = Admission(limits), BodyReader(limits)
        self.meters = Meters(lambda: self._admission.images, lambda: self.scorer is not None and not self._ending)

    def app(self) -> web.Application:
        """The application for a server of aiohttp; it must be told when a client leaves (`handler_cancellation`)."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._guarded(request, handler)

        app = web.Application(client_max_size=self._limits.body_bytes, middlewares=[guard])
        app.router.add_post("/score", self._score)
        app.router.add_post("/describe", self._describe)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get(HEALTH, self._health)
        return app

    def end(self) -> None:
        """Refuse further requests, and let those in flight wait for no others."""
        self._ending = True
        if self.scorer:
            self.scorer.batcher.hurry()

    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count a request, look at its token, and answer errors in JSON."""
        resource = request.match_info.route.resource
        route = resource.canonical if resource else "other"
        began_s, status = perf_counter(), _CLIENT_LEFT
        try:
            answer = await self._answered(request, handler)
            status = answer.status
            return answer
        finally:
            self.meters.requests.labels(route, str(status)).inc()
            self.meters.request_s.labels(route).observe(perf_counter() - began_s)

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path != HEALTH and not self._has_token(request):
                raise RequestRefused(401, "unauthorized", "Send the token: Authorization: Bearer TOKEN.")
            return await handler(request)
        except RequestRefused as error:
            return _refusal(error)
        except web.HTTPException as error:
            return _refusal(RequestRefused(error.status, "no_such_route", f"{error.reason}. {_ROUTES}"))
        except ArtiMuseError as error:
            return _refusal(RequestRefused(500, "model_failed", error.message))
        except Exception as error:
            show(f"A request failed: {reason_of(error)}. This was not foreseen.", file=sys.stderr)
            return _refusal(RequestRefused(500, "failed", "This was not foreseen; the server's log names it."))

    def _has_token(self, request: web.Request) -> bool:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        # Not `==`, whose time tells how many of its letters are right.
        return scheme.lower() == "bearer" and hmac.compare_digest(
            token.strip().encode("utf-8", "surrogateescape"), self._token
        )

    async def _score(self, request: web.Request) -> web.Response:
        return await self._results(request, self._ready(), texts=False)

    async def _describe(self, request: web.Request) -> web.Response:
        scorer = self._ready()
        if not scorer.has_texts:
            raise RequestRefused(404, "no_texts", "This server makes no texts. Start it with --texts.")
        return await self._results(request, scorer, texts=True)

    async def _results(self, request: web.Request, scorer: Scorer, *, texts: bool) -> web.Response:
        limit_s = self._limits.timeout_s
        ends_s = asyncio.get_running_loop().time() + limit_s
        with self._admission.body(request.content_length):
            try:
                async with asyncio.timeout_at(ends_s):
                    files = await self._bodies.read(request)
            except TimeoutError:
                raise RequestRefused(408, "timeout", f"The body took longer than {limit_s:g} s (--timeout).") from None
            with self._admission.pictures(len(files)):
                try:
                    async with asyncio.timeout_at(ends_s):
                        results = await scorer.results(files, texts=texts)
                except TimeoutError:
                    raise RequestRefused(
                        504, "timeout", f"The pictures took longer than {limit_s:g} s (--timeout). Send fewer.", 1
                    ) from None
        return web.json_response({"fingerprint": asdict(scorer.fingerprint), "results": results})

    def _ready(self) -> Scorer:
        if self._ending:
            raise RequestRefused(503, "ending", "The server ends. Send it to another one, or when it is back.", 1)
        if self.scorer is None:
            raise RequestRefused(503, "loading", "The model is being loaded. Send it again.", _LOADING_S)
        return self.scorer

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self.meters.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _health(self, _: web.Request) -> web.Response:
        self._ready()
        return web.json_response({"status": "ready"})


def _refusal(error: RequestRefused) -> web.Response:
    about: dict[str, Any] = {"error": {"type": error.error_type, "message": error.message}}
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.json_response(about, status=error.status, headers=headers)
